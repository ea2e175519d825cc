"""Predictor and predict.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import cv2
import mindspore
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mindspore import Tensor
from PIL import Image

import predict as program
from coupalign.config import load_config
from coupalign.data.tokenizer import Tokenizer
from coupalign.data.transform import prepare_image
from coupalign.errors import UserError
from coupalign.evaluation.evaluate import probabilities
from coupalign.files import REPOSITORY, find_file
from coupalign.inference.predict import file_stem, slug
from coupalign.inference.predictor import Prediction, Predictor, Proposals
from coupalign.model import build_model
from coupalign.overlay import COLOUR, overlay, write_png
from tests.conftest import SMALLEST, assert_close

CONFIG = load_config(overrides=SMALLEST)
EXPRESSION = "the red circle"


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint):
    return make_checkpoint(CONFIG)


@pytest.fixture(scope="module")
def predictor(checkpoint):
    return Predictor(checkpoint)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def resized(map_: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear with half-pixel centres."""
    return cv2.resize(np.asarray(map_, np.float64), (width, height), interpolation=cv2.INTER_LINEAR)


def weighted_sum(parts: Proposals) -> np.ndarray:
    """Eq 12 and the 4x upsampling: the weighted sum of the proposals, as a probability."""
    logits = resized(np.tensordot(parts.weights.astype(np.float64), parts.masks.astype(np.float64), 1), 64, 64)
    return 1 / (1 + np.exp(-logits))


def test_the_package_offers_it_without_its_dependencies():
    code = "import sys, coupalign; coupalign.Predictor; print([m for m in ('numpy', 'mindspore', 'yaml') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 90), (130, 70)])
def test_a_prediction_is_the_models_at_the_images_own_size(predictor, height, width):
    rgb = picture(height, width)
    found = predictor.predict(rgb, EXPRESSION)
    words = Tokenizer(find_file(CONFIG.data.vocab_file), CONFIG.model.max_tokens).encode(EXPRESSION)
    logits = predictor.model(*(Tensor(array[None]) for array in (prepare_image(rgb, 64), *words))).asnumpy()[0]
    expected = resized(1 / (1 + np.exp(-logits.astype(np.float64))), height, width)
    assert found.mask.shape == (height, width) and found.mask.dtype == bool
    assert found.probability.dtype == np.float32
    assert_close(found.probability, expected, relative=1e-5)
    assert ((found.probability > 0.5) == found.mask).all()
    assert 0 < found.mask.mean() < 1
    assert found.score == found.probability.max()
    assert (found.proposals, found.warnings) == (None, ())


def test_paths_arrays_and_pil_images_are_the_same(predictor, tmp_path):
    """Of a photograph that is turned by its EXIF orientation, as Pillow shows it."""
    stored = Image.fromarray(picture(50, 90))
    stored.getexif()[0x0112] = 6
    stored.save(tmp_path / "a.png", exif=stored.getexif())
    upright = np.rot90(picture(50, 90), -1)
    expected = predictor.predict(np.ascontiguousarray(upright), EXPRESSION).probability
    assert expected.shape == (90, 50)
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.open(tmp_path / "a.png")):
        np.testing.assert_array_equal(predictor.predict(image, EXPRESSION).probability, expected)


def test_a_batch_gives_what_single_predictions_give(predictor):
    images = [picture(50, 90), picture(64, 64), Image.fromarray(picture(30, 20))]
    expressions = [EXPRESSION, "a blue square", "the thing left of it"]
    batch = predictor.predict_batch(images, expressions, batch_size=2)
    assert len(batch) == 3
    for found, image, expression in zip(batch, images, expressions):
        expected = predictor.predict(image, expression)
        assert_close(found.probability, expected.probability, relative=1e-5)
        assert found.mask.shape == expected.mask.shape and found.warnings == expected.warnings
    assert predictor.predict_batch([], []) == []
    for pairs, message in (((images, expressions[:2]), "one expression per image"), ((images[0], EXPRESSION), "list")):
        with pytest.raises(UserError, match=message):
            predictor.predict_batch(*pairs)


def test_the_expression_and_the_threshold_matter(predictor, monkeypatch):
    rgb = picture(50, 90)
    found = predictor.predict(rgb, EXPRESSION)
    assert (predictor.predict(rgb, "a blue square").probability != found.probability).any()
    monkeypatch.setattr(predictor, "config", load_config(overrides={**SMALLEST, "threshold": 0.6}))
    np.testing.assert_array_equal(predictor.predict(rgb, EXPRESSION).mask, found.probability > np.float32(0.6))


def test_another_thread_gets_the_same(predictor):
    found = []
    thread = threading.Thread(target=lambda: found.append(predictor.predict(picture(64, 64), EXPRESSION)))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0].mask, predictor.predict(picture(64, 64), EXPRESSION).mask)


def test_proposals_explain_the_mask(predictor):
    rgb = picture(64, 64)
    found = predictor.predict(rgb, EXPRESSION, proposals=True)
    parts = found.proposals
    np.testing.assert_array_equal(found.mask, predictor.predict(rgb, EXPRESSION).mask)
    assert_close(found.probability, weighted_sum(parts), relative=1e-5)
    assert parts.weights.shape == (5,) and parts.weights.sum() == pytest.approx(1, abs=1e-5)
    assert parts.tokens[:5] == ["[CLS]", "the", "red", "circle", "[SEP]"] and len(parts.tokens) == 8
    sides = [16, 8, 4, 2]
    assert [attention.shape for attention in parts.text_to_image] == [(side, side, 8) for side in sides]
    assert [attention.shape for attention in parts.image_to_text] == [(8, side, side) for side in sides]
    for over_words, over_pixels in zip(parts.text_to_image, parts.image_to_text):
        np.testing.assert_allclose(over_words.sum(2), 1, atol=1e-5)
        np.testing.assert_allclose(over_words[..., 5:], 0, atol=1e-6)
        np.testing.assert_allclose(over_pixels[:5].sum((1, 2)), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "masks", "stages", "back"),
    [
        ({"sma": False}, 1, 4, 4),
        ({"wpa_direction": "uni", "wpa_stages": [3, 1]}, 5, 2, 0),
        ({"wpa_direction": "none"}, 5, 0, 0),
    ],
)
def test_proposals_of_reduced_models(make_checkpoint, overrides, masks, stages, back):
    reduced = Predictor(make_checkpoint(load_config(overrides={**SMALLEST, **overrides})))
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)  # compiling takes longer
    found = reduced.predict(picture(64, 64), EXPRESSION, proposals=True)
    assert_close(found.probability, weighted_sum(found.proposals), relative=1e-5)
    assert len(found.proposals.masks) == masks
    assert (len(found.proposals.text_to_image), len(found.proposals.image_to_text)) == (stages, back)


@pytest.mark.parametrize("orientation", [1, 3, 5, 6])
def test_pil_images_that_are_opened_from_a_file_are_read_like_the_file(predictor, tmp_path, orientation):
    """Pillow turns a TIFF without compression twice if it is opened by name; 16-bit grey keeps its upper eight bits."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    grey = picture(30, 20)[..., 0]
    for name, values in (("a.tif", grey), ("b.tif", grey.astype(np.uint16) * 250), ("c.png", grey)):
        Image.fromarray(values).save(tmp_path / name, exif=exif)
        found, expected = (
            predictor.predict(image, EXPRESSION) for image in (Image.open(tmp_path / name), tmp_path / name)
        )
        np.testing.assert_array_equal(found.probability, expected.probability)


@pytest.mark.parametrize(
    ("image", "expression", "message"),
    [
        (np.zeros((4, 4), np.uint8), EXPRESSION, r"RGB \(H, W, 3\) uint8"),
        (np.zeros((4, 4, 4), np.uint8), EXPRESSION, r"RGB \(H, W, 3\) uint8"),
        (np.zeros((4, 4, 3), np.float32), EXPRESSION, r"RGB \(H, W, 3\) uint8"),
        (np.zeros((0, 4, 3), np.uint8), EXPRESSION, r"RGB \(H, W, 3\) uint8"),
        ([picture(4, 4)], EXPRESSION, "type list: .*predict_batch"),
        (None, EXPRESSION, "type NoneType"),
        (b"a.png", EXPRESSION, "type bytes"),
        (picture(4, 4), [EXPRESSION], "must be text.*list"),
        (picture(4, 4), " ", "empty"),
        (picture(4, 4), "caf\udcff", "UTF-8"),
    ],
)
def test_inputs_of_a_wrong_kind_are_refused(predictor, image, expression, message):
    with pytest.raises(UserError, match=message):
        predictor.predict(image, expression)


def test_words_beyond_the_models_vocabulary(predictor, monkeypatch):
    monkeypatch.setattr(predictor, "config", load_config(overrides={**SMALLEST, "bert_vocab_size": 2000}))
    with pytest.raises(UserError, match="beyond bert_vocab_size 2000"):
        predictor.predict(picture(9, 9), EXPRESSION)


def test_a_checkpoint_needs_its_configuration(checkpoint, tmp_path):
    (tmp_path / "best.ckpt").write_bytes(checkpoint.read_bytes())
    with pytest.raises(UserError, match=r"config\.yaml"):
        Predictor(tmp_path / "best.ckpt")
    with pytest.raises(UserError, match="no checkpoint"):
        Predictor(tmp_path / "none.ckpt")
    with pytest.raises(UserError, match="path of a .ckpt file"):
        Predictor(["best.ckpt"])


@pytest.mark.slow
def test_half_precision_is_float32_on_a_cpu(checkpoint, predictor, tmp_path, caplog):
    """A checkpoint that was trained in bfloat16 on a device, with the vocabulary beside it."""
    (tmp_path / "best.ckpt").write_bytes(checkpoint.read_bytes())
    (tmp_path / "words.txt").write_bytes(find_file(CONFIG.data.vocab_file).read_bytes())
    text = checkpoint.with_name("config.yaml").read_text()
    text = text.replace("precision: fp32", "precision: bf16").replace("device_target: CPU", "device_target: Ascend")
    text = text.replace(f"vocab_file: {CONFIG.data.vocab_file}", "vocab_file: elsewhere/words.txt")
    assert "bf16" in text and "elsewhere" in text
    (tmp_path / "config.yaml").write_text(text)
    with caplog.at_level("WARNING"):
        half = Predictor(tmp_path / "best.ckpt")
    assert "bf16" in caplog.text and "fp32" in caplog.text
    found = half.predict(picture(64, 64), EXPRESSION)
    np.testing.assert_array_equal(found.probability, predictor.predict(picture(64, 64), EXPRESSION).probability)


def test_probabilities():
    logits = np.array([-200, -np.log(3), 0, np.log(3), 200], np.float32)
    np.testing.assert_allclose(probabilities(logits), [0, 0.25, 0.5, 0.75, 1], atol=1e-7)
    for value in (np.nan, np.inf):
        with pytest.raises(UserError, match="not finite"):
            probabilities(np.array([0, value], np.float32))


def test_box_by_hand():
    mask = np.zeros((10, 12), bool)
    assert Prediction(mask, mask.astype(np.float32)).box is None
    mask[3:5, 7] = True
    assert Prediction(mask, mask).box == (7, 3, 1, 2)
    mask[9, 0] = True
    assert Prediction(mask.copy(), mask).box == (0, 3, 8, 7)


def test_overlay_tints_the_mask_and_nothing_else():
    rgb, mask = picture(9, 9), np.zeros((9, 9), bool)
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
def one_predictor(predictor, monkeypatch):
    """predict.py uses the predictor of this file, because compiling another takes long."""
    monkeypatch.setattr("coupalign.inference.predict.Predictor", lambda *_, **__: predictor)
    return predictor


def test_the_program_writes_what_the_predictor_finds(one_predictor, checkpoint, tmp_path, capfd):
    rgb = picture(50, 90)
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
        assert line["max_probability"] == pytest.approx(expected.probability.max(), abs=1e-4)
        assert (tuple(line["box"]), tuple(line["warnings"])) == (expected.box, expected.warnings)


def test_directories_and_several_images(one_predictor, checkpoint, tmp_path, monkeypatch, capfd):
    """Two directories with images of one name, one image of another format, one that is damaged, and a text file."""
    for name in ("one/a.png", "one/a.bmp", "two/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(picture(20, 30)).save(tmp_path / name)
    (tmp_path / "two/notes.txt").write_text("no image")
    (tmp_path / "two/b.jpg").write_text("not what it is called")
    monkeypatch.setenv("HOME", str(tmp_path))
    arguments = ["--checkpoint", checkpoint, "--expression", EXPRESSION, "--output", tmp_path / "out"]
    status = run(
        *arguments, "--image", tmp_path / "one", "--image", "~/two", "--image", "assets/examples/val_000028.png"
    )
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    names = [line["image"] for line in lines]
    assert status == 2 and [os.path.basename(name) for name in names] == [
        "a.bmp",
        "a.png",
        "a.png",
        "b.jpg",
        "val_000028.png",
    ]
    assert [line.get("error", "")[:5] for line in lines] == ["", "", "", "image", ""]
    assert len(os.listdir(tmp_path / "out")) == 8


def test_names_that_are_not_utf8(one_predictor, checkpoint, tmp_path, monkeypatch, capfd):
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    Image.fromarray(picture(20, 30)).save(os.fsencode(path))
    assert run("--checkpoint", checkpoint, "--image", path, "--expression", EXPRESSION, "--output", tmp_path / "o") == 0
    line = json.loads(capfd.readouterr().out)
    assert line["image"] == str(path) and os.path.isfile(line["mask"])


@pytest.mark.parametrize(
    ("more", "message"),
    [(["--expression", "  "], "expression"), (["--expression", "x", "--seg_head_dim", "16"], "another configuration")],
)
def test_mistakes_are_one_line_and_leave_nothing(checkpoint, tmp_path, monkeypatch, refuses, more, message):
    monkeypatch.chdir(tmp_path)
    write_png("a.png", picture(20, 30))
    assert message in refuses(program.main, ["--checkpoint", checkpoint, "--image", "a.png", *more])


def test_a_mistake_in_a_process_of_its_own(checkpoint, tmp_path):
    """A file that ends early, for which image libraries print messages of their own."""
    write_png(tmp_path / "image.png", picture(40, 40))
    (tmp_path / "image.png").write_bytes((tmp_path / "image.png").read_bytes()[:2000])
    environment = {name: value for name, value in os.environ.items() if name not in ("GLOG_v", "OPENCV_LOG_LEVEL")}
    arguments = ["--checkpoint", str(checkpoint), "--image", "image.png", "--expression", "x"]
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "predict.py"), *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "image.png" in done.stderr
    assert os.listdir(tmp_path) == ["image.png"]


def test_the_checkpoint_is_used(predictor):
    """A model that was only built has other weights."""
    rgb = picture(64, 64)
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    other = build_model(CONFIG).set_train(False)
    words = predictor.tokenizer.encode(EXPRESSION)
    logits = other(*(Tensor(array[None]) for array in (prepare_image(rgb, 64), *words))).asnumpy()[0]
    assert np.abs(1 / (1 + np.exp(-logits)) - predictor.predict(rgb, EXPRESSION).probability).max() > 1e-3
