"""Uploads, expressions, thresholds and the child process with Lite, without the page's server."""

from __future__ import annotations

import hashlib
import re
import struct
import sys
import zlib

import cv2
import numpy as np
import psutil
import pytest

from coupalign.config import load_config
from coupalign.data.images import load_image
from coupalign.data.tokenizer import Tokenizer
from coupalign.data.transform import MEAN, STD
from coupalign.demo.engines import LiteEngine
from coupalign.demo.requests import read_expressions, read_upload
from coupalign.demo.serve import served
from coupalign.errors import UserError
from coupalign.files import REPOSITORY, find_file, sha256
from coupalign.inference.exported import find_vocabulary
from coupalign.inference.uploads import MAX_EXPRESSIONS, Refused
from coupalign.overlay import write_png
from tests.conftest import SMALLEST, assert_close
from tests.test_deployment import describe

CONFIG = load_config(overrides=SMALLEST)
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(find_file(CONFIG.data.vocab_file), CONFIG.model.max_tokens)


def picture(number: int, height: int = 50, width: int = 70) -> np.ndarray:
    """Coarse noise, whose masks are more than single pixels."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST)


def test_an_upload_is_read_as_every_image_is(tmp_path):
    write_png(tmp_path / "a.png", picture(1))
    assert (read_upload(tmp_path / "a.png") == load_image(tmp_path / "a.png")).all()
    (tmp_path / "a.txt").write_bytes((tmp_path / "a.png").read_bytes())
    assert (read_upload(tmp_path / "a.txt") == picture(1)).all()


def large_png(side: int) -> bytes:
    """The header of a PNG of `side` x `side` pixels, which must be refused before decoding."""
    head = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return PNG + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + b"\0\0\0\0IDAT"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"just some words", "x.png is not an image, or is damaged: choose a JPEG or PNG file."),
        (b"", "x.png is not an image"),
        (PNG + b"\0" * 50, "x.png is not an image"),
        (cv2.imencode(".png", picture(0))[1].tobytes()[:200], "x.png is not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "x.png is not an image"),
        (PNG + b"\0" * (10 * 2**20), "x.png is larger than 10 MB"),
        (large_png(5001), "x.png has more than 25 million pixels"),
        (large_png(60000), "x.png has more than 25 million pixels"),
        (large_png(3), "x.png has 3×3 pixels"),
    ],
)
def test_files_that_are_not_images_are_refused_by_content(tmp_path, content, said):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(Refused, match=re.escape(said)) as caught:
        read_upload(tmp_path / "x.png")
    assert str(tmp_path) not in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_image_is_refused(tmp_path):
    for path in (None, tmp_path / "removed.png"):
        with pytest.raises(Refused, match="^There is no image: choose one"):
            read_upload(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "There is no expression"),
        (None, "There is no expression"),
        (" \n ", "There is no expression"),
        ("x\n" * (MAX_EXPRESSIONS + 1), "There are 7 expressions: give at most 6"),
        ("cup\n\u00ad", "has no word"),
        ("a" * 301, "has 301 characters"),
    ],
)
def test_what_no_model_can_read_is_refused(tokenizer, text, said):
    assert read_expressions("  the left  cup \n\n man\r\n", tokenizer) == ["the left cup", "man"], "lines"
    with pytest.raises(Refused, match=said) as caught:
        read_expressions(text, tokenizer)
    assert len(str(caught.value)) < 150


def test_without_gradio_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match="pip install -r requirements-demo.txt"), served(None, "127.0.0.1", 0):
        pass


STAND_IN = """
import os
import numpy as np
class Context:
    cpu = type("CPU", (), {})()
class ModelType:
    MINDIR = 0
class Port:
    def __init__(self, shape): self.shape = shape
    def set_data_from_numpy(self, array): self.array = array
    def get_data_to_numpy(self): return self.array
class Model:
    def build_from_file(self, path, kind, context): print("chatter on standard output", flush=True)
    def get_inputs(self): return [Port([1, 3, 64, 64]), Port([1, 8]), Port([1, 8])]
    def predict(self, inputs):
        if 6033 in inputs[1].array: os._exit(3)
        answer = Port(None)
        answer.array = (1 / (1 + np.exp(-inputs[0].array[:, 0]))).astype(np.float32)
        return [answer]
"""


def test_lite_answers_from_a_process_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "mindspore_lite.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    before = psutil.Process().children()
    engine = LiteEngine(CONFIG, str(describe(tmp_path)), sys.executable)
    try:
        assert engine.threshold == 0.4 and engine.tokenizer.max_tokens == 8
        rgb = picture(5, 30, 64)
        square = cv2.resize(rgb, (64, 64), interpolation=cv2.INTER_LINEAR)
        expected = 1 / (1 + np.exp(-(square[..., 0].astype(np.float64) - MEAN[0]) / STD[0]))
        answer = engine.answer(rgb, "the red circle")
        assert_close(answer.probability, expected, relative=1e-5)
        assert answer.details is None
        # A child that dies costs one answer.
        with pytest.raises(UserError, match="MindSpore Lite ended with status 3"):
            engine.answer(rgb, "destroy")
        assert_close(engine.answer(rgb, "the red circle").probability, expected, relative=1e-5)
    finally:
        engine.close()
    assert psutil.Process().children() == before


def test_lite_finds_the_vocabulary_of_the_exported_model(tmp_path):
    """The SHA-256 beside the model decides, not the configuration."""
    words = "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "cup"])
    text = {"max_tokens": 8, "vocabulary_size": 5, "vocabulary_sha256": hashlib.sha256(words.encode()).hexdigest()}
    model = describe(tmp_path, text=text)
    with pytest.raises(UserError, match="no vocabulary with the SHA-256"):
        find_vocabulary(CONFIG, str(model))
    (tmp_path / "vocab.txt").write_text(words)
    assert find_vocabulary(CONFIG, str(model)) == tmp_path / "vocab.txt"
    other = load_config(overrides={**SMALLEST, "vocab_file": str(tmp_path / "vocab.txt")})
    assert find_vocabulary(other, str(describe(tmp_path))).name == "bert-base-uncased-vocab.txt"
    shipped = {**text, "vocabulary_sha256": sha256(REPOSITORY / "assets/refshapes-vocab.txt")}
    assert find_vocabulary(CONFIG, str(describe(tmp_path, text=shipped))).name == "refshapes-vocab.txt"


@pytest.mark.parametrize("text", ["x", {}, {"vocabulary_sha256": 5}])
def test_a_damaged_description_is_reported(tmp_path, text):
    with pytest.raises(UserError, match="does not describe a model"):
        find_vocabulary(CONFIG, str(describe(tmp_path, text=text)))


def test_a_python_that_is_missing_is_reported(tmp_path):
    with pytest.raises(UserError, match="none/python cannot be run"):
        LiteEngine(CONFIG, str(describe(tmp_path)), "none/python")
