"""Programs that run an exported graph, compared with the code of training and with predict.py."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
from pathlib import Path

import cv2
import lite_predict
import model_inputs
import numpy as np
import predict_files
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

import predict
from coupalign.data.images import load_image
from coupalign.data.masks import run_lengths
from coupalign.data.tokenizer import Tokenizer
from coupalign.data.transform import MEAN, STD, prepare_image, probability_at
from coupalign.errors import UserError
from coupalign.files import sha256
from coupalign.inference.prediction import Prediction
from coupalign.overlay import overlay
from tests.test_tokenizer import VOCABULARY, _sentences


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


def test_expressions_share_the_batches_of_a_graph(tmp_path, monkeypatch):
    """Five expressions in batches of two; the probability depends on the expression alone."""
    sizes = []

    class Words(Lite):
        def get_inputs(self):
            return [Port([2, 3, 64, 64]), Port([2, 8]), Port([2, 8])]

        def predict(self, inputs):
            sizes.append(len(inputs[0].array))
            probability = Port(None)
            probability.array = np.broadcast_to(np.sin(inputs[1].array.sum(1))[:, None, None], (2, 64, 64))
            return [probability]

    monkeypatch.setattr(lite_predict, "_build", lambda *_: Words())
    path = describe(tmp_path, inputs=[{"name": "image", "shape": [2, 3, 64, 64], "dtype": "float32"}])
    lite = lite_predict.LiteModel(path, VOCABULARY)
    texts = ["a dog", "the dog", "two dogs", "a cat", "the red cat"]
    answers = list(lite.answers(np.zeros((30, 40, 3), np.uint8), texts))
    assert [each[0][0, 0] for each in answers] == [np.sin(lite.encode(text)[0].sum()) for text in texts]
    assert sizes == [2, 2, 2] and len({each[0][0, 0] for each in answers}) == 5


def test_lite_continues_where_it_was(lite, tmp_path, monkeypatch, capsys):
    for name in "ab":
        _picture(tmp_path / f"{name}.png")
    made = []
    found = lite_predict.LiteModel.outputs
    monkeypatch.setattr(lite_predict.LiteModel, "outputs", lambda self, *args: made.append(1) or found(self, *args))

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
    assert line["score"] > 0.5 and len(line["warnings"]) == nothing_fits
    assert ("nothing in this image fits" in err and "0.21" in err and line["warnings"][0] in err) == nothing_fits


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
        ({"text": "x"}, {}, "does not describe a model"),
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
