"""Graphs in ONNX, run in ONNX Runtime and compared with the model."""

from __future__ import annotations

import json
import os

import cv2
import mindspore  # before onnx, as in the package
import numpy as np
import onnx
import onnx_predict
import onnxruntime
import pytest
from mindspore import Tensor, nn, ops

import export as program
from coupalign.checkpoints.loading import load_checkpoint
from coupalign.config import load_config
from coupalign.data.images import load_image
from coupalign.data.tokenizer import Tokenizer
from coupalign.data.transform import prepare_image, probability_at
from coupalign.errors import UserError
from coupalign.files import find_file, sha256
from coupalign.inference import export as room
from coupalign.inference import onnx_export
from coupalign.inference.graph import ExportGraph
from coupalign.model import build_model
from tests.conftest import SMALLEST, TINY, assert_close

CONFIG = load_config(overrides=SMALLEST)
VOCABULARY = find_file(CONFIG.data.vocab_file)


class StandIn(nn.Cell):
    """Compiles in a moment and has the model's inputs. With `sine`, an operator that has no translation."""

    def __init__(self, sine: bool = False):
        super().__init__()
        self.seg_head = nn.Dense(3, 16, weight_init="normal")
        self.mask_proj = nn.Dense(16, 1, weight_init="normal")
        self.sine = sine

    def construct(self, image: Tensor, token_ids: Tensor, token_mask: Tensor) -> Tensor:
        words = (token_ids * token_mask).astype("float32").sum(1).reshape(-1, 1, 1) / 1e5
        if self.sine:
            words = ops.sin(words)
        pixels = ops.relu(self.seg_head(image.transpose(0, 2, 3, 1)))
        return self.mask_proj(pixels).squeeze(-1) + words


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """A checkpoint of the stand-in, which takes the model's place."""
    model = StandIn()
    monkeypatch.setattr(room, "build_model", lambda config, precision: model)
    mindspore.save_checkpoint(model, str(tmp_path / "stand_in.ckpt"))
    CONFIG.save(tmp_path / "config.yaml")
    return tmp_path / "stand_in.ckpt"


def run_export(checkpoint, *more: str) -> int:
    return program.main(["--checkpoint", str(checkpoint), "--file_format", "ONNX", *more])


def run(path, inputs) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(str(path)).run(None, dict(zip(room.INPUT_NAMES, inputs)))


def samples(config, count: int, raw: bool = False) -> list[np.ndarray]:
    """Random images with random words, which fill all slots, half of them or a single one."""
    random = np.random.default_rng(7)
    size, length = config.model.image_size, config.model.max_tokens
    image = random.standard_normal((count, 3, size, size)).astype(np.float32)
    if raw:
        image = random.integers(0, 256, (count, size, size, 3)).astype(np.uint8)
    ids = random.integers(1, config.model.bert_vocab_size, (count, length)).astype(np.int32)
    mask = (np.arange(length) < np.array([[length], [length // 2], [1]])[:count]).astype(np.int32)
    return [image, ids * mask, mask]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "raw"),
    [
        ({}, True),
        ({"swin_window_size": 3, "wpa_direction": "uni", "wpa_stages": [2, 3], "batch_norm": "frozen"}, False),
        ({"sma": False, "wpa_direction": "none"}, False),
        ({"wpa_norm": True, "cross_attention_norm": True, "query_anchors": True, "existence": True}, False),
    ],
    ids=["printed", "padded windows", "without sma", "selecting"],
)
def test_every_kind_of_model_with_any_batch_size(make_checkpoint, tmp_path, options, raw):
    config = load_config(overrides={**TINY, **options})
    checkpoint = make_checkpoint(config)
    onnx_export.export_onnx(config, checkpoint, tmp_path / "graph.onnx", raw_image=raw)
    model = build_model(config)
    load_checkpoint(checkpoint, model)
    inputs = samples(config, 3, raw)
    expected = room.arrays(ExportGraph(model, raw, config.model.existence).set_train(False)(*map(Tensor, inputs)))
    assert len(expected) == 1 + config.model.existence and all(each.std() > 1e-3 for each in expected)
    found = run(tmp_path / "graph.onnx", inputs), run(tmp_path / "graph.onnx", [each[1:2] for each in inputs])
    for batch, single, each in zip(*found, expected, strict=True):
        assert_close(batch, each, relative=2e-5)
        assert_close(single, each[1:2], relative=2e-5)
    # Parameters keep their names.
    names = {each.name for each in onnx.load(tmp_path / "graph.onnx").graph.initializer}
    assert {"text_encoder.embeddings.word_embeddings.embedding_table", "seg_head.rho.0.bn1.gamma"} <= names


def test_the_files_of_a_graph(stand_in, tmp_path, capfd):
    target = tmp_path / "refcoco+ é" / "coup align.onnx"
    assert run_export(stand_in, "--file_name", str(target)) == 0
    assert "any batch size, outputs within" in capfd.readouterr().out
    assert sorted(os.listdir(target.parent)) == ["coup align.json", "coup align.npz", "coup align.onnx"]
    found = json.loads(target.with_suffix(".json").read_text())
    assert [each["shape"] for each in found["inputs"]] == [["batch", 3, 64, 64], ["batch", 8], ["batch", 8]]
    assert found["outputs"] == [{"name": "probability", "shape": ["batch", 64, 64], "dtype": "float32"}]
    assert found["onnx_sha256"] == sha256(target) and found["int8"] is False
    assert onnx.load(target).opset_import[0].version >= 17
    reference = np.load(target.with_suffix(".npz"))
    words = (reference["token_ids"] * reference["token_mask"]).astype(np.float64).sum(1).reshape(-1, 1, 1) / 1e5
    w = {name: each.asnumpy().astype(np.float64) for name, each in mindspore.load_checkpoint(str(stand_in)).items()}
    pixels = reference["image"].transpose(0, 2, 3, 1) @ w["seg_head.weight"].T + w["seg_head.bias"]
    logits = (np.maximum(pixels, 0) @ w["mask_proj.weight"].T + w["mask_proj.bias"]).squeeze(-1) + words
    probability = 1 / (1 + np.exp(-logits))
    assert_close(reference["probability"], probability, relative=1e-5)
    inputs = [reference[name] for name in room.INPUT_NAMES]
    assert_close(run(target, inputs)[0], probability, relative=1e-5)


def test_int8_weights_of_linear_layers(stand_in, tmp_path):
    assert run_export(stand_in, "--export_int8") == 0
    model = onnx.load(tmp_path / "stand_in.onnx")
    assert "MatMulInteger" in {each.op_type for each in model.graph.node}
    assert json.loads((tmp_path / "stand_in.json").read_text())["int8"] is True
    reference = np.load(tmp_path / "stand_in.npz")
    (found,) = run(tmp_path / "stand_in.onnx", [reference[name] for name in room.INPUT_NAMES])
    assert 0 < np.abs(found - reference["probability"]).max() < 0.02


@pytest.mark.parametrize("off", [1e-3, np.nan])
def test_a_graph_that_differs_from_the_model_is_not_kept(stand_in, tmp_path, monkeypatch, capfd, off):
    translate = onnx_export.to_onnx

    def wrong(*arguments):
        model = translate(*arguments)
        bias = next(each for each in model.graph.initializer if each.name == "mask_proj.bias")
        bias.raw_data = (np.frombuffer(bias.raw_data, np.float32) + np.float32(5 * off)).tobytes()
        return model

    monkeypatch.setattr(onnx_export, "to_onnx", wrong)
    before = sorted(os.listdir(tmp_path))
    assert run_export(stand_in) == 2
    assert "differ from the model" in capfd.readouterr().err
    assert sorted(os.listdir(tmp_path)) == before


def test_an_operator_without_a_translation_is_named(stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "build_model", lambda config, precision: StandIn(sine=True))
    with pytest.raises(UserError, match="operator Sin has no translation"):
        onnx_export.export_onnx(CONFIG, stand_in, tmp_path / "graph.onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--export_batch_size", "2"], "--export_batch_size"),
        (["--export_for", "Ascend"], "--export_for"),
        (["--file_name", "graph.mindir"], "ends in .onnx"),
        (["--file_format", "MINDIR", "--export_int8"], "--export_int8 is for ONNX"),
    ],
)
def test_options_that_contradict_the_format(stand_in, refuses, options, message):
    assert message in refuses(lambda _: run_export(stand_in, *options), [])


def test_missing_packages_are_named(stand_in, refuses, monkeypatch):
    monkeypatch.setattr("coupalign.commands.export.find_spec", lambda name: None)
    assert "onnx and onnxruntime: python -m pip install" in refuses(lambda _: run_export(stand_in), [])


def run_predict(*arguments: object) -> int:
    return onnx_predict.main([str(each) for each in ("--vocab", VOCABULARY, *arguments)])


def test_the_program_writes_the_mask_of_the_model(stand_in, tmp_path, capfd):
    assert run_export(stand_in) == 0
    picture = tmp_path / "a.png"
    cv2.imwrite(str(picture), np.random.default_rng(0).integers(0, 256, (37, 50, 3), np.uint8))
    capfd.readouterr()
    graph = tmp_path / "stand_in.onnx"
    arguments = ["--model", graph, "--image", picture, "--output", tmp_path / "out", "--probability"]
    assert run_predict(*arguments, "--expression", "the dog", "--expression", "a red square") == 0
    found = {each["expression"]: each for each in map(json.loads, capfd.readouterr().out.splitlines())}
    rgb, tokenizer = load_image(picture), Tokenizer(VOCABULARY, CONFIG.model.max_tokens)
    for expression, answer in found.items():
        inputs = [prepare_image(rgb, 64), *tokenizer.encode(expression)]
        model = ExportGraph(room.build_model(CONFIG, "fp32")).set_train(False)
        expected = probability_at(model(*(Tensor(each[None]) for each in inputs)).asnumpy()[0], 37, 50)
        assert_close(np.load(answer["probability"]), expected, relative=1e-5)
        mask = cv2.imread(answer["mask"], cv2.IMREAD_GRAYSCALE) > 0
        assert (mask == (expected > CONFIG.evaluation.threshold)).mean() > 0.999
    assert len(found) == 2


def test_the_program_reports_a_damaged_graph_in_one_line(stand_in, tmp_path, capfd):
    assert run_export(stand_in) == 0
    capfd.readouterr()
    graph = tmp_path / "stand_in.onnx"
    graph.write_bytes(graph.read_bytes()[:500])
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    assert run_predict("--model", graph, "--image", tmp_path / "a.png", "--expression", "dog") == 2
    out, err = capfd.readouterr()
    assert not out and err.startswith("error: ONNX Runtime") and err.count("\n") == 1 and "damaged" in err


def test_the_program_refuses_an_output_that_is_not_finite(stand_in, tmp_path, capfd):
    assert run_export(stand_in) == 0
    capfd.readouterr()
    graph = tmp_path / "stand_in.onnx"
    model = onnx.load(graph)
    bias = next(each for each in model.graph.initializer if each.name == "mask_proj.bias")
    bias.raw_data = np.full_like(np.frombuffer(bias.raw_data, np.float32), np.nan).tobytes()
    onnx.save(model, graph)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    assert run_predict("--model", graph, "--image", tmp_path / "a.png", "--expression", "dog") == 2
    assert "not finite" in capfd.readouterr().err
