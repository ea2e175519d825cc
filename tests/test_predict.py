"""predict.py and the names of its files, with a stand-in for the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import predict as program
from coupalign.config import load_config
from coupalign.data.tokenizer import Tokenizer
from coupalign.files import REPOSITORY
from coupalign.inference.predict import file_stem, slug
from coupalign.inference.prediction import Prediction
from coupalign.overlay import COLOUR, overlay, write_png
from tests.conftest import SMALLEST, noise

CONFIG = load_config(overrides=SMALLEST)
EXPRESSION = "the red circle"


def test_overlay_tints_the_mask_and_nothing_else():
    rgb, mask = noise(9, 9), np.zeros((9, 9), bool)
    mask[2:7, 0:5] = True
    before, drawn = rgb.copy(), overlay(rgb, mask)
    np.testing.assert_array_equal(rgb, before)
    np.testing.assert_array_equal(drawn[~mask], rgb[~mask])
    inside = np.zeros_like(mask)
    inside[3:6, 1:4] = True
    assert (drawn[mask & ~inside] == COLOUR).all()
    middle = (rgb[inside].astype(float) + COLOUR) / 2
    assert np.abs(drawn[inside] - middle).max() <= 0.5


@given(st.text(max_size=300))
def test_names_are_short_and_safe(text):
    name = slug(text)
    assert 1 <= len(name.encode()) <= 60 and all(c.isalnum() or c == "-" for c in name), name


def test_names_differ_for_each_image_and_expression():
    images = ["a.jpg", "a.png", "b/a.png", "猫.jpg", "狗.jpg", "x" * 200 + "1.png", "x" * 200 + "2.png", "a\udcff.png"]
    expressions = ["the dog", "The dog", "the dog!", "狗", "猫", "y" * 200 + "1", "y" * 200 + "2"]
    names = {file_stem(image, expression) for image in images for expression in expressions}
    assert len(names) == len(images) * len(expressions) == len({name.lower() for name in names})
    assert all(len(name.encode()) < 200 for name in names)
    assert file_stem("./a.png", "the dog") == file_stem("a.png", "the dog")
    assert file_stem("猫.jpg", "the dog").startswith("猫-the-dog-")


def run(*arguments: object) -> int:
    return program.main([str(argument) for argument in arguments])


@pytest.fixture
def one_predictor(monkeypatch):
    """A predictor whose mask depends on the image and on the length of the expression."""
    tokenizer = Tokenizer(CONFIG.data.vocab_file, CONFIG.model.max_tokens)

    def predict(rgb, expression):
        probability = rgb.mean(2, dtype=np.float32) / (255 + len(expression))
        return Prediction(probability > 0.4, probability, None, tokenizer.warnings(expression))

    made = SimpleNamespace(tokenizer=tokenizer, encode=tokenizer.encode, predict=predict)
    monkeypatch.setattr("coupalign.inference.predict.Predictor", lambda *_, **__: made)
    return made


def test_the_program_writes_what_the_predictor_finds(one_predictor, checkpoint, tmp_path, capfd):
    rgb = noise(50, 90)
    write_png(tmp_path / "my photo.png", rgb)
    requested = ["the red circle", "../Kü?", "the red circle left of the blue square"]
    output = tmp_path / "deep" / "out"
    expressions = [argument for expression in requested for argument in ("--expression", expression)]
    assert run("--checkpoint", checkpoint, "--image", tmp_path / "my photo.png", *expressions, "--output", output) == 0
    out, err = capfd.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["expression"] for line in lines] == requested
    assert sorted(os.listdir(output)) == sorted(
        os.path.basename(line[kind]) for line in lines for kind in ("mask", "overlay")
    )
    assert err.startswith("warning: ") and err.count("\n") == 1 and requested[2] in err
    for line in lines:
        expected = one_predictor.predict(rgb, line["expression"])
        mask = cv2.imread(line["mask"], cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask, expected.mask * np.uint8(255))
        np.testing.assert_array_equal(cv2.imread(line["overlay"])[..., ::-1], overlay(rgb, expected.mask))
        assert line["area"] == pytest.approx(expected.mask.mean(), abs=1e-6)
        assert line["score"] == pytest.approx(expected.probability.max(), abs=1e-4)
        assert (tuple(line["box"]), tuple(line["warnings"])) == (expected.box, expected.warnings)


def test_directories_and_several_images(one_predictor, checkpoint, tmp_path, monkeypatch, capfd):
    """Two directories with images of one name, one image of another format, one that is damaged, and a text file."""
    for name in ("one/a.png", "one/a.bmp", "two/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(noise(20, 30)).save(tmp_path / name)
    (tmp_path / "two/notes.txt").write_text("no image")
    (tmp_path / "two/b.jpg").write_text("not what it is called")
    monkeypatch.setenv("HOME", str(tmp_path))
    arguments = ["--checkpoint", checkpoint, "--expression", EXPRESSION, "--output", tmp_path / "out"]
    images = (tmp_path / "one", "~/two", "assets/examples/val_000028.png")
    assert run(*arguments, *(part for image in images for part in ("--image", image))) == 2
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [(os.path.basename(line["image"]), "error" in line) for line in lines] == [
        *(("a.bmp", False), ("a.png", False), ("a.png", False), ("b.jpg", True), ("val_000028.png", False))
    ]
    assert len(os.listdir(tmp_path / "out")) == 8


def test_names_that_are_not_utf8(one_predictor, checkpoint, tmp_path, monkeypatch, capfd):
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    Image.fromarray(noise(20, 30)).save(os.fsencode(path))
    assert run("--checkpoint", checkpoint, "--image", path, "--expression", EXPRESSION, "--output", tmp_path / "o") == 0
    line = json.loads(capfd.readouterr().out)
    assert line["image"] == str(path) and os.path.isfile(line["mask"])


@pytest.mark.parametrize(
    ("more", "message"),
    [(["--expression", "  "], "expression"), (["--expression", "x", "--seg_head_dim", "16"], "another configuration")],
)
def test_mistakes_are_one_line_and_leave_nothing(checkpoint, tmp_path, monkeypatch, refuses, more, message):
    monkeypatch.chdir(tmp_path)
    write_png("a.png", noise(20, 30))
    assert message in refuses(program.main, ["--checkpoint", checkpoint, "--image", "a.png", *more])


def test_a_truncated_image_in_a_process_of_its_own(checkpoint, tmp_path):
    """Image libraries print messages of their own about it."""
    write_png(tmp_path / "image.png", noise(40, 40))
    (tmp_path / "image.png").write_bytes((tmp_path / "image.png").read_bytes()[:2000])
    environment = {name: value for name, value in os.environ.items() if name not in ("GLOG_v", "OPENCV_LOG_LEVEL")}
    line = [sys.executable, REPOSITORY / "predict.py", "--checkpoint", checkpoint, "--image", "image.png"]
    done = subprocess.run([*line, "--expression", "x"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "image.png" in done.stderr
    assert os.listdir(tmp_path) == ["image.png"]
