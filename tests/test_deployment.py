"""The programs around an exported graph, compared with the code of training and evaluation."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import re
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

import mindspore_hub_conf
import postprocess
import predict
import preprocess
from coupalign.config import load_config
from coupalign.data.dataset import Split
from coupalign.data.images import load_image
from coupalign.data.masks import run_lengths
from coupalign.data.tokenizer import Tokenizer
from coupalign.data.transform import MEAN, STD, prepare_image, probability_at
from coupalign.errors import UserError
from coupalign.evaluation.evaluate import evaluate_split
from coupalign.files import REPOSITORY, sha256
from coupalign.inference.deployment import score, write_inputs
from coupalign.inference.prediction import Prediction
from coupalign.model import build_model
from coupalign.overlay import overlay
from tests.conftest import SMALLEST, TINY, refshapes_config
from tests.test_tokenizer import VOCABULARY, _sentences

sys.path.append(str(REPOSITORY / "deploy"))  # its modules are in no package
lite_predict, model_inputs, predict_files = map(
    importlib.import_module, ("lite_predict", "model_inputs", "predict_files")
)


def describe(directory: Path, **more) -> Path:
    """Writes the description of a graph of 64 pixels and 8 tokens; returns the path of its empty .mindir."""
    text = {"max_tokens": 8, "vocabulary_size": 30522, "vocabulary_sha256": sha256(VOCABULARY)}
    description = {
        "device": "CPU",
        "image": {"size": 64, "normalised": True, "mean": MEAN, "std": STD},
        "text": text,
        "threshold": 0.4,
        "versions": {"mindspore": "2.0.0"},
        "inputs": [{"name": "image", "shape": [1, 3, 64, 64], "dtype": "float32"}],
        **more,
    }
    (directory / "graph.json").write_text(json.dumps(description))
    (directory / "graph.mindir").touch()
    return directory / "graph.mindir"


class Port:
    """A tensor of MindSpore Lite."""

    def __init__(self, shape):
        self.shape = shape

    def set_data_from_numpy(self, array):
        assert array.flags.c_contiguous
        self.array = array

    def get_data_to_numpy(self):
        return self.array


class Lite:
    """A graph whose probability is the sigmoid of the image's red; `existence` is its second output, if it has one."""

    def __init__(self, existence=None):
        self.existence = existence

    def get_inputs(self):
        return [Port([1, 3, 64, 64]), Port([1, 8]), Port([1, 8])]

    def predict(self, inputs):
        probability, existence = Port(None), Port(None)
        probability.array = expit(inputs[0].array[:, 0])
        existence.array = np.array([self.existence], np.float32)
        return [probability] if self.existence is None else [probability, existence]


@pytest.fixture
def lite(tmp_path, monkeypatch):
    monkeypatch.setattr(lite_predict, "_build", lambda *_: Lite())
    return lite_predict.LiteModel(describe(tmp_path), VOCABULARY)


def _picture(path: Path, shape=(37, 50, 3)) -> Path:
    pixels = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, shape, np.uint8), (3, 3), 0)
    cv2.imwrite(str(path), pixels)
    return path


def test_lite_prepares_as_training_does(lite, tmp_path):
    for name, shape in {"a.jpg": (480, 600, 3), "a.png": (30, 20, 3)}.items():
        rgb = load_image(_picture(tmp_path / name, shape))
        np.testing.assert_array_equal(lite.prepare(rgb), prepare_image(rgb, 64))
        mask = np.random.default_rng(1).random(rgb.shape[:2]) > 0.3
        np.testing.assert_array_equal(predict_files.overlay(rgb, mask), overlay(rgb, mask))
    tokenizer = Tokenizer(VOCABULARY, 8)
    for sentence in [*_sentences(500), "the 龘 circle", "!!!", "bmx bike"]:
        try:
            expected = tokenizer.encode(sentence)
        except UserError:
            with pytest.raises(model_inputs.RequestError, match="empty"):
                lite.encode(sentence)
        else:
            np.testing.assert_array_equal(lite.encode(sentence), expected)
            assert tuple(lite.warnings(sentence)) == tokenizer.warnings(sentence)


def run_lite(directory: Path, **options) -> int:
    given = {"model": directory / "graph.mindir", "vocab": VOCABULARY, "output": directory / "out", **options}
    return lite_predict.main([str(each) for name, value in given.items() for each in (f"--{name}", value)])


class StandIn:
    """What ``Lite`` finds, as a ``Predictor``."""

    def __init__(self):
        self.tokenizer = Tokenizer(VOCABULARY, 8)
        self.encode = self.tokenizer.encode

    def predict_batch(self, images, expressions, _):
        maps = [probability_at(expit(prepare_image(rgb, 64)[0]), *rgb.shape[:2]) for rgb in images]
        warnings = map(self.tokenizer.warnings, expressions)
        return [Prediction(each > 0.4, each, None, lines) for each, lines in zip(maps, warnings)]


def test_lite_writes_what_predict_writes(lite, checkpoint, tmp_path, monkeypatch, capsys):
    """One image is missing. The file begins with a byte order mark, as Windows programs write it."""
    _picture(tmp_path / "a.png")
    (tmp_path / "two").mkdir()
    _picture(tmp_path / "two/a.png", (40, 30, 3))
    pairs = [("a.png", "the dog"), ("none.png", "the dog"), ("two/a.png", "the dog"), ("a.png", "狗狗")]
    lines = [json.dumps({"image": image, "expression": text}, ensure_ascii=False) for image, text in pairs]
    (tmp_path / "list.jsonl").write_text("\n".join(lines), encoding="utf-8-sig")
    monkeypatch.setattr("coupalign.inference.predict.Predictor", lambda *_, **__: StandIn())
    more = ["--expressions", str(tmp_path / "list.jsonl"), "--probability", "--output"]
    wrote = {}
    for name, program, own in (
        ("lite", lite_predict, ["--model", str(tmp_path / "graph.mindir"), "--vocab", str(VOCABULARY)]),
        ("ours", predict, ["--checkpoint", str(checkpoint), "--threshold", "0.4"]),
    ):
        directory = tmp_path / name
        assert program.main([*own, *more, str(directory)]) == 2
        out, err = capsys.readouterr()
        assert all(line in err for line in Tokenizer(VOCABULARY, 8).warnings("狗狗"))
        files = {path.name: path.read_bytes() for path in directory.iterdir()}
        figures = {path: json.loads(files.pop(path)) for path in list(files) if path.endswith(".json")}
        made_from = {figures[path].pop("made_from") for path in figures if path != "predictions.json"}
        assert len(made_from) == 2, "a.png and two/a.png"
        printed = [json.loads(line) for line in out.replace(str(directory), "").splitlines()]
        errors = [line.pop("error") for line in printed if "error" in line]
        assert len(errors) == 1 and "none.png cannot be read" in errors[0]
        wrote[name] = (files, figures, printed)
    assert wrote["lite"] == wrote["ours"]
    files, figures, printed = wrote["ours"]
    assert len(files) == 9 and len(figures) == 4 and len(printed) == 4
    good = printed[0]
    rgb = load_image(tmp_path / "a.png")
    expected = probability_at(expit(prepare_image(rgb, 64)[0]), *rgb.shape[:2]) > 0.4
    assert 0.1 < expected.mean() < 0.9
    mask = cv2.imread(f"{tmp_path}/lite{good['mask']}", cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(mask, expected * np.uint8(255))


def test_lite_continues_where_it_was(lite, tmp_path, monkeypatch, capsys):
    for name in "ab":
        _picture(tmp_path / f"{name}.png")
    made = []
    found = lite_predict.LiteModel.answer
    monkeypatch.setattr(lite_predict.LiteModel, "answer", lambda self, *args: made.append(1) or found(self, *args))

    def again():
        made.clear()
        assert run_lite(tmp_path, image=tmp_path, expression="dog") == 0
        return len(made), [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    count, first = again()
    assert count == 2 and again() == (0, first)
    os.remove(first[1]["mask"])
    assert again() == (1, first)
    describe(tmp_path, threshold=0.6)
    assert again()[0] == 2


@given(st.integers(0, 2**32), st.integers(1, 90), st.integers(1, 90), st.floats(0, 1))
def test_run_lengths_are_those_of_coco(seed, height, width, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    assert predict_files.run_lengths(mask) == run_lengths(mask)
    wide = np.repeat(mask, 40, 0)
    assert predict_files.run_lengths(wide) == run_lengths(wide)


@pytest.mark.parametrize(("existence", "nothing_fits"), [(0.21, True), (0.75, False)])
def test_lite_empties_the_mask_of_what_does_not_exist(tmp_path, monkeypatch, capsys, existence, nothing_fits):
    monkeypatch.setattr(lite_predict, "_build", lambda *_: Lite(existence))
    describe(tmp_path, existence_threshold=0.6)
    assert run_lite(tmp_path, image=_picture(tmp_path / "a.png"), expression="the dog") == 0
    out, err = capsys.readouterr()
    line = json.loads(out)
    assert (line["existence"], line["nothing_fits"]) == (pytest.approx(existence), nothing_fits)
    assert cv2.imread(line["mask"]).any() != nothing_fits and (line["area"] == 0) == nothing_fits
    assert line["score"] > 0.5 and ("nothing in this image fits" in err and "0.21" in err) == nothing_fits


def test_lite_prints_names_that_are_not_utf8(lite, tmp_path, capfd):
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    shutil.copy(_picture(tmp_path / "a.png"), path)
    assert run_lite(tmp_path, image=path, expression="dog") == 0
    line = json.loads(capfd.readouterr().out)
    assert line["image"] == str(path) and os.path.isfile(line["mask"])


@pytest.mark.parametrize(
    ("description", "options", "message"),
    [
        ({}, {"vocab": "graph.json"}, "is not the vocabulary"),
        ({"device": "Ascend"}, {}, "was not exported for CPU"),
        ({"text": {"max_tokens": 8, "vocabulary_sha256": "0"}}, {}, "is not the vocabulary"),
        ({"versions": None}, {}, "does not describe a model"),
        ({}, {"model": "none.mindir"}, "model none.mindir cannot be read"),
        ({}, {"image": "."}, "has no images"),
    ],
)
def test_lite_reports_mistakes_in_one_line(tmp_path, monkeypatch, refuses, description, options, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lite_predict, "_build", lambda *_: Lite())
    describe(tmp_path, **description)
    given = {"image": "a.png", "expression": "dog", **options}
    assert message in refuses(lambda _: run_lite(tmp_path, **given), [])


@pytest.mark.parametrize(
    "content",
    [
        '{"image": "a.png", "expression": "caf\xe9"}'.encode("latin-1"),
        b"[1]",
        b'{"image": "a.png", "expression": " "}',
        b"{}",
        b'{"image": 1, "expression": "x"}',
        b'{"image": "a.png", "expression": "a \\ud800"}',
        b'{"image": "\\ud800.png", "expression": "a"}',
        b"x",
    ],
)
def test_lite_refuses_invalid_requests_in_one_line(lite, tmp_path, capsys, content):
    (tmp_path / "requests.jsonl").write_bytes(content)
    assert run_lite(tmp_path, expressions=tmp_path / "requests.jsonl") == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and "requests.jsonl" in err
    assert "UTF-8" in err or "line 1" in err


@pytest.mark.parametrize(
    ("exporter", "device", "message"),
    [("2.9.0", "CPU", "MindSpore 2.9.0"), ("2.0.0", "CPU", "damaged"), ("2.0.0", "Ascend", "CANN.*libgraph.so")],
)
def test_lite_says_why_it_cannot_load_a_model(exporter, device, message):
    with pytest.raises(OSError):
        ctypes.CDLL("libgraph.so")
    assert re.search(message, lite_predict.load_failure(exporter, "2.0.0", device))


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
