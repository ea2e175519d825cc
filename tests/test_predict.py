from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import cv2
import mindspore
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mindspore import Tensor

import predict as program
from coupalign.config import load_config
from coupalign.data.tokenizer import Tokenizer
from coupalign.data.transform import prepare_image
from coupalign.errors import UserError
from coupalign.evaluation.evaluate import probabilities
from coupalign.files import REPOSITORY, find_file
from coupalign.inference.predict import box, slug
from coupalign.inference.predictor import Predictor, Proposals
from coupalign.model import build_model
from coupalign.overlay import COLOUR, overlay, write_png
from tests.conftest import SMALLEST, assert_close

CONFIG = load_config(overrides=SMALLEST)
EXPRESSION = "the red circle"


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint):
    return make_checkpoint(CONFIG)


@pytest.fixture(scope="module", autouse=True)
def graph_mode():
    """As in the programs; what is compiled once is then fast."""
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    yield
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)


@pytest.fixture(scope="module")
def predictor(checkpoint):
    return Predictor(checkpoint, config=CONFIG)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def resized(map_: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear with half-pixel centres, as OpenCV has it."""
    return cv2.resize(np.asarray(map_, np.float64), (width, height), interpolation=cv2.INTER_LINEAR)


def put_together(parts: Proposals) -> np.ndarray:
    """Eq 12 and the 4x upsampling: the weighted sum of the proposals, as a probability."""
    logits = resized(np.tensordot(parts.weights.astype(np.float64), parts.masks.astype(np.float64), 1), 64, 64)
    return 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 90), (130, 70)])
def test_a_prediction_is_the_models_at_the_images_own_size(predictor, height, width):
    rgb = picture(height, width)
    found = predictor.predict(rgb, EXPRESSION)
    words = Tokenizer(find_file(CONFIG.vocab_file), CONFIG.max_tokens).encode(EXPRESSION)
    logits = predictor.model(*(Tensor(array[None]) for array in (prepare_image(rgb, 64), *words))).asnumpy()[0]
    expected = resized(1 / (1 + np.exp(-logits.astype(np.float64))), height, width)
    assert found.mask.shape == (height, width) and found.mask.dtype == bool
    assert found.probability.dtype == np.float32
    assert_close(found.probability, expected, relative=1e-5)
    assert ((found.probability > 0.5) == found.mask).all()
    assert 0 < found.mask.mean() < 1
    assert found.proposals is None


def test_paths_and_pixels_are_the_same(predictor, tmp_path):
    rgb = picture(50, 90)
    write_png(tmp_path / "a.png", rgb)
    from_path, from_pixels = predictor.predict(tmp_path / "a.png", EXPRESSION), predictor.predict(rgb, EXPRESSION)
    np.testing.assert_array_equal(from_path.probability, from_pixels.probability)


def test_the_expression_and_the_threshold_matter(predictor, monkeypatch):
    rgb = picture(50, 90)
    found = predictor.predict(rgb, EXPRESSION)
    assert (predictor.predict(rgb, "a blue square").probability != found.probability).any()
    monkeypatch.setattr(predictor, "config", load_config(overrides={**SMALLEST, "threshold": 0.6}))
    strict = predictor.predict(rgb, EXPRESSION)
    np.testing.assert_array_equal(strict.mask, found.probability > np.float32(0.6))


def test_proposals_explain_the_mask(predictor):
    rgb = picture(64, 64)
    found = predictor.predict(rgb, EXPRESSION, proposals=True)
    parts = found.proposals
    np.testing.assert_array_equal(found.mask, predictor.predict(rgb, EXPRESSION).mask)
    assert_close(found.probability, put_together(parts), relative=1e-5)
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
    config = load_config(overrides={**SMALLEST, **overrides})
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    found = Predictor(config, make_checkpoint(config)).predict(picture(64, 64), EXPRESSION, proposals=True)
    assert_close(found.probability, put_together(found.proposals), relative=1e-5)
    assert len(found.proposals.masks) == masks
    assert (len(found.proposals.text_to_image), len(found.proposals.image_to_text)) == (stages, back)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_pixels_that_are_no_image(predictor, image):
    with pytest.raises(UserError, match="an image is RGB pixels"):
        predictor.predict(image, EXPRESSION)


def test_words_beyond_the_models_vocabulary(predictor, monkeypatch):
    monkeypatch.setattr(predictor, "config", load_config(overrides={**SMALLEST, "bert_vocab_size": 2000}))
    with pytest.raises(UserError, match="beyond bert_vocab_size 2000"):
        predictor.predict(picture(9, 9), EXPRESSION)


def test_probabilities():
    logits = np.array([-200, -np.log(3), 0, np.log(3), 200], np.float32)
    found = probabilities(logits)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [0, 0.25, 0.5, 0.75, 1], atol=1e-7)
    for value in (np.nan, np.inf):
        with pytest.raises(UserError, match="not finite"):
            probabilities(np.array([0, value], np.float32))


def test_box_by_hand():
    mask = np.zeros((10, 12), bool)
    assert box(mask) is None
    mask[3:5, 7] = True
    assert box(mask) == [7, 3, 1, 2]
    mask[9, 0] = True
    assert box(mask) == [0, 3, 8, 7]


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
    np.testing.assert_array_equal(overlay(rgb, np.zeros_like(mask)), rgb)


@given(st.text(max_size=80))
def test_names_are_safe_on_any_system(text):
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", slug(text))


def test_the_program_writes_what_the_predictor_finds(predictor, checkpoint, tmp_path, capfd):
    """With the configuration beside the checkpoint."""
    rgb = picture(50, 90)
    write_png(tmp_path / "my photo.png", rgb)
    asked = ["the red circle", "../Étoile?", "the red circle"]
    arguments = [argument for expression in asked for argument in ("--expression", expression)]
    output = tmp_path / "deep" / "out"
    status = program.main(
        [
            "--checkpoint",
            str(checkpoint),
            "--image",
            str(tmp_path / "my photo.png"),
            *arguments,
            "--output",
            str(output),
        ]
    )
    out, err = capfd.readouterr()
    assert (status, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["expression"] for line in lines] == asked
    assert os.listdir(tmp_path / "deep") == ["out"] and len(os.listdir(output)) == 6
    for line in lines:
        expected = predictor.predict(rgb, line["expression"])
        mask = cv2.imread(line["mask"], cv2.IMREAD_UNCHANGED)
        assert mask.shape == (50, 90) and set(np.unique(mask)) == {0, 255}
        undecided = np.abs(expected.probability - 0.5) < 1e-4
        assert ((mask == 255) == expected.mask)[~undecided].all()
        np.testing.assert_array_equal(cv2.imread(line["overlay"])[..., ::-1], overlay(rgb, mask == 255))
        assert line["area"] == pytest.approx((mask == 255).mean(), abs=1e-6)
        assert line["max_probability"] == pytest.approx(expected.probability.max(), abs=1e-4)
        rows, columns = np.nonzero(mask)
        assert line["box"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--image": "missing.png"}, "missing.png"),
        ({"--image": "text.png"}, "text.png"),
        ({"--expression": "  "}, "expression"),
        ({"--checkpoint": "none.ckpt"}, "no checkpoint none.ckpt"),
        ({"--checkpoint": "text.ckpt"}, "text.ckpt is not a MindSpore checkpoint"),
        ({"--seg_head_dim": "16"}, "another configuration"),
        ({"--vocab_file": "none.txt"}, "none.txt"),
        ({"--output": "text.png"}, "text.png cannot be a directory"),
        ({"--batch_sise": "1"}, "unknown option --batch_sise: did you mean --batch_size?"),
        ({"--epochs": "x"}, "epochs must be an integer"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(checkpoint, tmp_path, monkeypatch, capfd, change, message):
    monkeypatch.chdir(tmp_path)
    # The prediction itself is not what goes wrong here, and compiling it takes long.
    monkeypatch.setattr("coupalign.context.set_up", lambda config: None)
    write_png("image.png", picture(20, 30))
    for name in ("text.png", "text.ckpt"):
        (tmp_path / name).write_text("not what it is called")
    before = sorted(os.listdir(tmp_path))
    arguments = {
        "--checkpoint": str(checkpoint),
        "--config": str(checkpoint.with_name("config.yaml")),
        "--image": "image.png",
        "--expression": "fine",
        "--output": "out",
        **change,
    }
    status = program.main([part for pair in arguments.items() for part in pair])
    out, err = capfd.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert sorted(os.listdir(tmp_path)) == before


def test_a_mistake_in_a_process_of_its_own(checkpoint, tmp_path):
    # A file that ends early, about which image libraries have much to say.
    write_png(tmp_path / "image.png", picture(40, 40))
    (tmp_path / "image.png").write_bytes((tmp_path / "image.png").read_bytes()[:2000])
    environment = {name: value for name, value in os.environ.items() if name not in ("GLOG_v", "OPENCV_LOG_LEVEL")}
    done = subprocess.run(
        [
            sys.executable,
            str(REPOSITORY / "predict.py"),
            "--checkpoint",
            str(checkpoint),
            "--image",
            "image.png",
            "--expression",
            "x",
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "image.png" in done.stderr
    assert os.listdir(tmp_path) == ["image.png"]


def test_the_checkpoint_is_what_is_used(predictor):
    """A model that was only built has other weights."""
    rgb = picture(64, 64)
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    other = build_model(CONFIG).set_train(False)
    words = predictor.tokenizer.encode(EXPRESSION)
    logits = other(*(Tensor(array[None]) for array in (prepare_image(rgb, 64), *words))).asnumpy()[0]
    assert np.abs(1 / (1 + np.exp(-logits)) - predictor.predict(rgb, EXPRESSION).probability).max() > 1e-3
