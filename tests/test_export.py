from __future__ import annotations

import json
import os

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from mindspore.train import mind_ir_pb2
from scipy.special import ndtr

import export as program
from coupalign.config import load_config
from coupalign.devices import set_up
from coupalign.errors import UserError
from coupalign.files import find_file, sha256
from coupalign.inference import export as room
from coupalign.inference.plain import use_plain_operators
from coupalign.inference.predictor import Predictor
from coupalign.model.layers import Gelu
from tests.conftest import SMALLEST, assert_close

CONFIG = load_config(overrides=SMALLEST)


class StandIn(nn.Cell):
    """Compiles in a moment, has the model's inputs and a dropout that evaluation must not see."""

    def __init__(self):
        super().__init__()
        self.seg_head = nn.Dense(3, 1, weight_init="ones", bias_init="zeros")
        self.dropout = nn.Dropout(p=0.5)

    def construct(self, image: Tensor, token_ids: Tensor, token_mask: Tensor) -> Tensor:
        words = ops.sin((token_ids * token_mask).astype("float32")).sum(1).reshape(-1, 1, 1)
        return self.dropout(self.seg_head(image.transpose(0, 2, 3, 1)).squeeze(-1) + words)


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """A checkpoint of the stand-in, which takes the model's place."""
    monkeypatch.setattr(room, "build_model", lambda config, precision: StandIn())
    mindspore.save_checkpoint(StandIn(), str(tmp_path / "stand_in.ckpt"))
    CONFIG.save(tmp_path / "config.yaml")
    return tmp_path / "stand_in.ckpt"


@pytest.mark.slow
def test_the_whole_model_from_the_command_line(make_checkpoint, tmp_path, capfd):
    """With the existence output."""
    config = load_config(overrides={**SMALLEST, "existence": True, "existence_threshold": 0.3})
    checkpoint = make_checkpoint(config)
    target = tmp_path / "refcoco+ (a=b) é" / "coup align.mindir"
    status = program.main(["--checkpoint", str(checkpoint), "--file_name", str(target), "--export_raw_image"])
    out, err = capfd.readouterr()
    assert (status, err) == (0, "") and "coup align.mindir: batch 1, outputs within" in out
    assert sorted(os.listdir(target.parent)) == ["coup align.json", "coup align.mindir"]
    described = json.loads(target.with_suffix(".json").read_text())
    assert described["existence_threshold"] == 0.3
    assert described["outputs"] == [
        {"name": "probability", "shape": [1, 64, 64], "dtype": "float32"},
        {"name": "existence", "shape": [1], "dtype": "float32"},
    ]

    rgb = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    predictor = Predictor(checkpoint, config=config)
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)  # so that what is compared with is not compiled
    graph = nn.GraphCell(mindspore.load(str(target)))
    for expression in ("a blue square", "cup"):
        expected = predictor.predict(rgb, expression)
        found = graph(*(Tensor(array[None]) for array in (rgb, *predictor.encode(expression))))
        assert_close(found[0].asnumpy()[0], expected.probability, relative=1e-5)
        assert found[1].asnumpy()[0] == pytest.approx(expected.existence, abs=1e-5)

    model = mind_ir_pb2.ModelProto()
    model.ParseFromString(target.read_bytes())
    # Lite 2.0 computes the first wrongly on several threads, of the second twelve bits, and the third slowly.
    assert not {primitive.op_type for primitive in model.primitives} & {"LayerNorm", "Rsqrt", "Erf"}
    assert target.stat().st_mode & 0o777 == target.with_suffix(".json").stat().st_mode & 0o777


def test_the_description_of_a_graph(stand_in):
    assert program.main(["--checkpoint", str(stand_in), "--export_batch_size", "2", "--export_for", "Ascend"]) == 0
    found = json.loads(stand_in.with_suffix(".json").read_text())
    assert (found["device"], found["threshold"]) == ("Ascend", CONFIG.evaluation.threshold)
    np.testing.assert_allclose(found["image"].pop("mean"), np.array([0.485, 0.456, 0.406]) * 255)
    np.testing.assert_allclose(found["image"].pop("std"), np.array([0.229, 0.224, 0.225]) * 255)
    assert found["image"] == {"size": 64, "normalised": True}
    assert found["text"] == {
        "max_tokens": 8,
        "vocabulary_size": 30522,
        "vocabulary_sha256": sha256(find_file(CONFIG.data.vocab_file)),
    }
    assert found["inputs"] == [
        {"name": "image", "shape": [2, 3, 64, 64], "dtype": "float32"},
        {"name": "token_ids", "shape": [2, 8], "dtype": "int32"},
        {"name": "token_mask", "shape": [2, 8], "dtype": "int32"},
    ]
    assert found["outputs"] == [{"name": "probability", "shape": [2, 64, 64], "dtype": "float32"}]
    assert found["mindir_sha256"] == sha256(stand_in.with_suffix(".mindir"))
    assert found["versions"]["mindspore"] == mindspore.__version__


class Outer(nn.Cell):
    """Holds an operator as the model does."""

    def __init__(self, operator: nn.Cell):
        super().__init__()
        self.operator = operator

    def construct(self, x: Tensor) -> Tensor:
        return self.operator(x)


def test_plain_norms_are_layer_norms(random_cell):
    norm, w, x = random_cell(nn.LayerNorm((6,), epsilon=1e-12), inputs=(2, 3, 6))
    mean, deviation = x.mean(-1, keepdims=True), x.std(-1, keepdims=True)
    expected = (x - mean) / deviation * w["gamma"] + w["beta"]
    outer = nn.CellList([Outer(norm.cell)])
    use_plain_operators(outer)
    assert not any(isinstance(each, nn.LayerNorm) for _, each in outer.cells_and_names())
    assert_close(outer[0](Tensor(x.astype(np.float32))), expected, relative=5e-6)


def test_plain_gelus_are_gelus():
    x = np.r_[np.linspace(-30, 30, 60001), 1e-6, 1e3, -1e3].astype(np.float32)
    outer = nn.CellList([Outer(Gelu())])
    use_plain_operators(outer)
    assert not any(isinstance(each, Gelu) for _, each in outer.cells_and_names())
    found = outer[0](Tensor(x)).asnumpy()
    # MindSpore's sigmoid itself is good to 7e-7.
    assert np.all(np.abs(found - x * ndtr(x.astype(np.float64))) <= 2e-6 * np.maximum(1, np.abs(x)))


def test_a_batch_size_can_be_chosen(stand_in, capfd):
    assert program.main(["--checkpoint", str(stand_in), "--export_batch_size", "3"]) == 0
    random = np.random.default_rng(0)
    image = random.standard_normal((3, 3, 64, 64)).astype(np.float32)
    token_ids, token_mask = random.integers(0, 9, (3, 8)).astype(np.int32), np.eye(8, dtype=np.int32)[:3]
    graph = nn.GraphCell(mindspore.load(str(stand_in.with_suffix(".mindir"))))
    words = np.sin(token_ids.astype(np.float64) * token_mask).sum(1)
    expected = 1 / (1 + np.exp(-image.astype(np.float64).sum(1) - words[:, None, None]))
    assert_close(graph(Tensor(image), Tensor(token_ids), Tensor(token_mask)), expected, relative=1e-5)


@pytest.mark.parametrize("off", [1e-3, np.nan])
def test_a_file_that_differs_from_the_model_is_not_kept(stand_in, tmp_path, monkeypatch, off):
    set_up(CONFIG.run)
    monkeypatch.setattr(mindspore, "load", lambda path: path)
    monkeypatch.setattr(nn, "GraphCell", lambda path: lambda image, *_: Tensor(np.full((1, 64, 64), off, np.float32)))
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(UserError, match="differ from the model"):
        room.export(CONFIG, stand_in, tmp_path / "new.mindir")
    assert sorted(os.listdir(tmp_path)) == before
