"""Input and result files of a program that runs an exported graph, compared with evaluation; the entry of the Hub."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from scipy.special import expit

import mindspore_hub_conf
import postprocess
import preprocess
from coupalign.config import load_config
from coupalign.data.dataset import Split
from coupalign.data.transform import MEAN, STD
from coupalign.errors import UserError
from coupalign.evaluation.evaluate import evaluate_split
from coupalign.inference.deployment import score, write_inputs
from coupalign.model import build_model
from tests.conftest import SMALLEST, TINY, refshapes_config
from tests.test_deployment import describe


@pytest.mark.parametrize("existence", [False, True])
def test_a_program_that_reads_the_files_scores_as_evaluation_does(tiny_data, tmp_path, capfd, existence):
    config = refshapes_config(tiny_data, threshold=0.4, eval_limit=20, existence=existence)

    def program(image, token_ids, token_mask):
        return image[..., 0, :, :] * 3 + np.sin(token_ids * token_mask).sum(-1)[..., None, None] / 4

    class Logits:
        def __init__(self, values):
            self.values = values

        def asnumpy(self):
            return self.values.astype(np.float32)

    def judgement(token_ids):
        return np.cos(token_ids.sum(-1))

    def forward(*inputs):
        arrays = [each.asnumpy() for each in inputs]
        logits = Logits(program(*arrays))
        return (logits, Logits(judgement(arrays[1]))) if existence else logits

    expected = evaluate_split(
        forward,
        config,
        Split(config, "val"),
        "val",
        20,
        progress=False,
    )
    config.save(tmp_path / "config.yaml")
    arguments = ["--config", str(tmp_path / "config.yaml"), "--split", "val"]
    assert (
        preprocess.main([*arguments, "--mindir_path", str(describe(tmp_path)), "--output", str(tmp_path / "in")]) == 0
    )
    (tmp_path / "results").mkdir()
    for file in sorted((tmp_path / "in/00_image").iterdir()):
        image, token_ids, token_mask = (
            np.fromfile(tmp_path / "in" / name / file.name, kind)
            for name, kind in (("00_image", np.float32), ("01_token_ids", np.int32), ("02_token_mask", np.int32))
        )
        probability = expit(program(image.reshape(3, 64, 64), token_ids, token_mask).astype(np.float32))
        probability.tofile(tmp_path / "results" / f"{file.stem}_0.bin")
        if existence:
            expit(judgement(token_ids).astype(np.float32)).tofile(tmp_path / "results" / f"{file.stem}_1.bin")
    arguments += ["--result_path", str(tmp_path / "results"), "--output", str(tmp_path / "scores")]
    assert postprocess.main(arguments) == 0
    found = json.loads((tmp_path / "scores/val.json").read_text())
    assert found["metrics"] == expected.metrics
    assert found.get("generalised", {}).get("all") == expected.generalised.get("all")
    assert not existence or 0 < found["generalised"]["all"]["T-acc"] < 1
    assert 0 < expected.metrics["oIoU"] < 1 and "20 samples" in capfd.readouterr().out

    counts, results = tmp_path / "counts.npy", sorted((tmp_path / "results").iterdir())
    half = 14 if existence else 7
    for part, files in (("first", results[:half]), ("second", results[half:])):
        (tmp_path / part).mkdir()
        for file in files:
            shutil.copy(file, tmp_path / part)
    assert score(config, "val", tmp_path / "first", counts) is None
    assert score(config, "val", tmp_path / "second", counts).metrics == expected.metrics

    (tmp_path / "results/000007_0.bin").write_bytes(b"\0" * 12)
    with pytest.raises(UserError, match="000007_0.bin is no probability map"):
        score(config, "val", tmp_path / "results")


def test_pixels_for_a_graph_that_normalises_them(tiny_data, tmp_path):
    config = refshapes_config(tiny_data, eval_limit=2)
    mindir = describe(tmp_path, image={"size": 64, "normalised": False, "mean": MEAN, "std": STD})
    assert write_inputs(config, "val", mindir, tmp_path / "in") == 2
    for number, sample in enumerate(Split(config, "val").samples([0, 1], 1)):
        pixels = np.fromfile(tmp_path / f"in/00_image/{number:06d}.bin", np.uint8).reshape(64, 64, 3)
        normalised = (pixels - np.array(MEAN)) / np.array(STD)
        np.testing.assert_allclose(normalised.transpose(2, 0, 1), sample["image"], atol=1e-5)
    with pytest.raises(UserError, match="exists already"):
        write_inputs(config, "val", mindir, tmp_path / "in")
    assert write_inputs(config, "val", mindir, tmp_path / "part", offset=1, limit=5) == 1
    assert (tmp_path / "part/00_image/000001.bin").read_bytes() == (tmp_path / "in/00_image/000001.bin").read_bytes()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"image": {"size": 96, "normalised": True}}, "exported with image_size 96"),
        ({"inputs": [{"shape": [4, 3, 64, 64]}]}, "batch size 4"),
    ],
)
def test_a_graph_that_does_not_fit_is_refused(tmp_path, more, message):
    with pytest.raises(UserError, match=message):
        write_inputs(load_config(overrides=TINY), "val", describe(tmp_path, **more), tmp_path / "in")


def test_the_hub_gets_the_network_of_a_configuration():
    network = mindspore_hub_conf.create_network("coupalign", **{**SMALLEST, "num_queries": 7})
    expected = build_model(load_config(overrides={**SMALLEST, "num_queries": 7}))
    shapes = ({name: value.shape for name, value in each.parameters_dict().items()} for each in (network, expected))
    assert next(shapes) == next(shapes)
    with pytest.raises(NotImplementedError, match="coupalign"):
        mindspore_hub_conf.create_network("lavt")
