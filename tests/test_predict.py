"""predict.py and the names of its files, with a stand-in for the model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

import predict as program
from coupalign.config import load_config
from coupalign.data.tokenizer import Tokenizer
from coupalign.files import REPOSITORY
from coupalign.inference.prediction import Prediction, nothing_fits_line
from coupalign.inference.results import file_stem, slug
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

    def predict_batch(images, expressions, batch_size):
        made.batches.append((len(images), batch_size))
        return [predict(*pair) for pair in zip(images, expressions, strict=True)]

    made = SimpleNamespace(tokenizer=tokenizer, encode=tokenizer.encode, predict=predict, batches=[])
    made.predict_batch = predict_batch
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
    named = [os.path.basename(line[kind]) for line in lines for kind in ("mask", "overlay")]
    figures = [name.replace(".mask.png", ".json") for name in named if ".mask." in name]
    assert sorted(os.listdir(output)) == sorted([*named, *figures, "predictions.json"])
    assert err.startswith("warning: ") and err.count("\n") == 1 and requested[2] in err
    for line in lines:
        expected = one_predictor.predict(rgb, line["expression"])
        mask = cv2.imread(line["mask"], cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask, expected.mask * np.uint8(255))
        np.testing.assert_array_equal(cv2.imread(line["overlay"])[..., ::-1], overlay(rgb, expected.mask))
        assert line["area"] == pytest.approx(expected.mask.mean(), abs=1e-6)
        assert line["score"] == pytest.approx(expected.probability.max(), abs=1e-4)
        assert (tuple(line["box"]), tuple(line["warnings"])) == (expected.box, expected.warnings)
    written = COCO(output / "predictions.json")
    assert [each["file_name"] for each in written.loadImgs(written.getImgIds())] == [str(tmp_path / "my photo.png")]
    for line, annotation in zip(lines, written.loadAnns(written.getAnnIds()), strict=True):
        expected = one_predictor.predict(rgb, line["expression"])
        np.testing.assert_array_equal(written.annToMask(annotation), expected.mask)
        assert (annotation["expression"], annotation["area"]) == (line["expression"], expected.mask.sum())
        assert tuple(annotation["bbox"]) == expected.box and annotation["score"] == line["score"]


def test_what_does_not_exist_has_an_empty_mask_and_is_said(one_predictor, checkpoint, tmp_path, capfd):
    def predict_batch(images, expressions, batch_size):
        nothing = [len(text) > 3 for text in expressions]
        return [
            Prediction(
                probability=rgb.mean(2, dtype=np.float32) / 255,
                mask=np.full(rgb.shape[:2], not empty),
                existence=0.123 if empty else 0.9,
                nothing_fits=empty,
                warnings=(nothing_fits_line(0.123),) if empty else (),
            )
            for rgb, empty in zip(images, nothing)
        ]

    one_predictor.predict_batch = predict_batch
    write_png(tmp_path / "a.png", noise(20, 30))
    options = ["--checkpoint", checkpoint, "--image", tmp_path / "a.png", "--output", tmp_path / "out"]
    for _ in range(2):  # the second run finds the results of the first
        assert run(*options, "--expression", "cup", "--expression", "the dog") == 0
        out, err = capfd.readouterr()
        fits, fits_not = map(json.loads, out.splitlines())
        assert (fits["existence"], fits["nothing_fits"], fits["area"]) == (0.9, False, 1)
        assert (fits_not["existence"], fits_not["nothing_fits"], fits_not["area"]) == (0.123, True, 0)
        assert "nothing in this image fits" in fits_not["warnings"][0] and not fits["warnings"]
        assert fits_not["box"] is None and not cv2.imread(fits_not["mask"]).any()
        np.testing.assert_array_equal(cv2.imread(fits_not["overlay"])[..., ::-1], noise(20, 30))
        assert err.count("\n") == 1 and "'the dog': nothing in this image fits" in err and "0.12" in err


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
    masks = [name for name in os.listdir(tmp_path / "out") if name.endswith(".mask.png")]
    assert len(masks) == 4 and len(COCO(tmp_path / "out/predictions.json").anns) == 4


def test_a_later_run_makes_what_is_missing(one_predictor, checkpoint, tmp_path, capfd):
    """Images, files, the model or the threshold may have changed since."""
    for name in "abc":
        write_png(tmp_path / f"{name}.png", noise(20, 30))
    arguments = [
        "--checkpoint",
        checkpoint,
        "--image",
        tmp_path,
        "--expression",
        EXPRESSION,
        "--output",
        tmp_path / "o",
    ]

    def again(*more):
        one_predictor.batches.clear()
        assert run(*arguments, *more) == 0
        lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
        assert len(json.loads((tmp_path / "o/predictions.json").read_text())["annotations"]) == 3
        return sum(count for count, _ in one_predictor.batches), lines

    made, first = again("--eval_batch_size", 2)
    assert made == 3 and one_predictor.batches == [(2, 2), (1, 2)]
    assert again() == (0, first)
    os.remove(first[0]["overlay"])
    write_png(tmp_path / "b.png", noise(21, 30))
    assert again()[0] == 2
    assert again("--threshold", 0.3)[0] == 3
    made, lines = again("--threshold", 0.3, "--probability")
    assert made == 3 and again("--threshold", 0.3)[0] == 0
    stored = np.load(lines[1]["probability"])
    np.testing.assert_array_equal(stored, one_predictor.predict(noise(21, 30), EXPRESSION).probability)


def test_an_interrupted_run_leaves_whole_files_and_continues(one_predictor, checkpoint, tmp_path, monkeypatch, capfd):
    """It is stopped at each file that it writes in turn."""
    write_png(tmp_path / "a.png", noise(20, 30))
    arguments = ["--checkpoint", checkpoint, "--image", tmp_path, "--output", tmp_path / "o"]
    arguments += ["--expression", "cup", "--expression", EXPRESSION]
    assert run(*arguments) == 0
    complete = {path.name: path.read_bytes() for path in (tmp_path / "o").iterdir()}
    replace, written = os.replace, 0

    def stopping(source, target):
        nonlocal written
        if str(target).startswith(str(tmp_path / "o")):
            written += 1
            if written == limit:
                raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", stopping)
    for limit in range(1, len(complete) + 1):
        shutil.rmtree(tmp_path / "o")
        written = 0
        assert run(*arguments) == 130
        left = {path.name: path.read_bytes() for path in (tmp_path / "o").iterdir()}
        assert len(left) == limit - 1 and left.items() <= complete.items()
        assert run(*arguments) == 0
        assert {path.name: path.read_bytes() for path in (tmp_path / "o").iterdir()} == complete


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
