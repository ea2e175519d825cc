"""coupalign.Predictor, compared with the model and with Eq 12."""

from __future__ import annotations

import threading

import cv2
import mindspore
import numpy as np
import pytest
from mindspore import Tensor
from PIL import Image
from scipy.special import expit

from coupalign.config import load_config
from coupalign.data.tokenizer import Tokenizer
from coupalign.data.transform import prepare_image
from coupalign.errors import UserError
from coupalign.files import find_file
from coupalign.inference.prediction import Details, Prediction
from coupalign.inference.predictor import Predictor
from tests.conftest import SMALLEST, assert_close, noise

CONFIG = load_config(overrides=SMALLEST)
EXPRESSION = "the red circle"


@pytest.fixture(scope="module")
def predictor(checkpoint):
    return Predictor(checkpoint)


@pytest.fixture(scope="module")
def judging(make_checkpoint):
    """A configuration with an existence output, and its predictor."""
    config = load_config(overrides={**SMALLEST, "existence": True})
    return config, Predictor(make_checkpoint(config), config=config)


def resized(map_: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear with half-pixel centres."""
    return cv2.resize(np.asarray(map_, np.float64), (width, height), interpolation=cv2.INTER_LINEAR)


def weighted_sum(parts: Details) -> np.ndarray:
    """Eq 12 and the 4x upsampling: the weighted sum of the proposals, as a probability."""
    logits = resized(np.tensordot(parts.weights.astype(np.float64), parts.masks.astype(np.float64), 1), 64, 64)
    return 1 / (1 + np.exp(-logits))


def test_the_checkpoint_is_loaded(predictor, checkpoint):
    for name, value in mindspore.load_checkpoint(str(checkpoint)).items():
        np.testing.assert_array_equal(predictor.model.parameters_dict()[name].asnumpy(), value.asnumpy())


@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 90), (130, 70)])
def test_a_prediction_is_the_models_at_the_images_own_size(predictor, height, width):
    rgb = noise(height, width)
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
    assert (found.details, found.warnings) == (None, ())


def test_paths_arrays_and_pil_images_are_the_same(predictor, tmp_path):
    """The photograph is turned by its EXIF orientation."""
    stored = Image.fromarray(noise(50, 90))
    stored.getexif()[0x0112] = 6
    stored.save(tmp_path / "a.png", exif=stored.getexif())
    upright = np.rot90(noise(50, 90), -1)
    expected = predictor.predict(np.ascontiguousarray(upright), EXPRESSION).probability
    assert expected.shape == (90, 50)
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.open(tmp_path / "a.png")):
        np.testing.assert_array_equal(predictor.predict(image, EXPRESSION).probability, expected)


@pytest.mark.slow
def test_a_batch_equals_single_predictions(predictor):
    """Images of several sizes; one with two expressions, one with none, and a last batch that is padded."""
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)  # compiling takes longer
    images = [noise(50, 90), Image.fromarray(noise(30, 20)), noise(64, 64)]
    expressions = [[EXPRESSION, "the thing left of it"], [], ["a blue square"]]
    batch = predictor.predict_batch(images, expressions, batch_size=2)
    assert [len(each) for each in batch] == [2, 0, 1]
    flat = predictor.predict_batch([images[0], images[2]], [EXPRESSION, "a blue square"], batch_size=2)
    for found, image, expression in (
        *((found, images[0], text) for found, text in zip(batch[0], expressions[0])),
        *((found, images[2], "a blue square") for found in (batch[2][0], flat[1])),
        (flat[0], images[0], EXPRESSION),
    ):
        expected = predictor.predict(image, expression)
        assert_close(found.probability, expected.probability, relative=1e-5)
        assert found.mask.shape == expected.mask.shape and found.warnings == expected.warnings
    assert predictor.predict_batch([], []) == []


@pytest.mark.parametrize("method", ["predict", "with details", "predict_batch"])
def test_the_mask_is_empty_where_the_model_says_that_nothing_fits(judging, method):
    config, predictor = judging
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)  # compiling takes longer
    rgb = noise(50, 90)
    inputs = [Tensor(array[None]) for array in (prepare_image(rgb, 64), *predictor.encode(EXPRESSION))]
    existence = expit(predictor.model(*inputs)[1].asnumpy()[0].astype(np.float64))
    for threshold, nothing_fits in ((existence - 1e-3, False), (existence + 1e-3, True)):
        predictor.config = load_config(overrides={**config.as_dict(), "existence_threshold": float(threshold)})
        if method == "predict_batch":
            (found,) = predictor.predict_batch([rgb], [EXPRESSION], batch_size=1)
        else:
            found = predictor.predict(rgb, EXPRESSION, details=method == "with details")
        assert found.existence == pytest.approx(existence, abs=1e-5) and found.nothing_fits == nothing_fits
        expected = np.zeros((50, 90), bool) if nothing_fits else found.probability > 0.5
        np.testing.assert_array_equal(found.mask, expected)
        assert (found.box is None) == nothing_fits and found.score > 0.5
        said = [line for line in found.warnings if f"{existence:.2f}" in line]
        assert len(found.warnings) == len(said) == nothing_fits


@pytest.mark.parametrize(
    ("images", "expressions", "batch_size", "message"),
    [
        ([noise(9, 9)] * 2, [EXPRESSION], 2, "2 images and 1 expressions"),
        (noise(9, 9), EXPRESSION, 2, "lists"),
        ([noise(9, 9)], [[EXPRESSION, " "]], 2, "empty"),
        ([noise(9, 9)], [None], 2, "must be text"),
        ([noise(9, 9)], [EXPRESSION], 0, "batch_size is 0"),
    ],
)
def test_batches_that_are_refused(predictor, images, expressions, batch_size, message):
    with pytest.raises(UserError, match=message):
        predictor.predict_batch(images, expressions, batch_size)


def test_the_expression_and_the_threshold_matter(predictor, monkeypatch):
    rgb = noise(50, 90)
    found = predictor.predict(rgb, EXPRESSION)
    assert (predictor.predict(rgb, "a blue square").probability != found.probability).any()
    monkeypatch.setattr(predictor, "config", load_config(overrides={**SMALLEST, "threshold": 0.6}))
    np.testing.assert_array_equal(predictor.predict(rgb, EXPRESSION).mask, found.probability > np.float32(0.6))


def test_another_thread_gets_the_same(predictor):
    found = []
    thread = threading.Thread(target=lambda: found.append(predictor.predict(noise(64, 64), EXPRESSION)))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0].mask, predictor.predict(noise(64, 64), EXPRESSION).mask)


@pytest.mark.slow
def test_proposals_explain_the_mask(predictor):
    rgb = noise(64, 64)
    found = predictor.predict(rgb, EXPRESSION, details=True)
    parts = found.details
    np.testing.assert_array_equal(found.mask, predictor.predict(rgb, EXPRESSION).mask)
    assert_close(found.probability, weighted_sum(parts), relative=1e-5)
    assert parts.weights.shape == (5,) and parts.weights.sum() == pytest.approx(1, abs=1e-5)
    assert (np.diff(parts.weights) <= 0).all() and len(found.proposals(3, 0.4)) == 3
    with pytest.raises(UserError, match="details=True"):
        predictor.predict(rgb, EXPRESSION).proposals()
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
    found = reduced.predict(noise(64, 64), EXPRESSION, details=True)
    assert_close(found.probability, weighted_sum(found.details), relative=1e-5)
    assert len(found.details.masks) == masks
    if masks == 1:
        assert_close(found.proposals()[0].probability, found.probability, relative=1e-5)
    assert (len(found.details.text_to_image), len(found.details.image_to_text)) == (stages, back)


@pytest.mark.parametrize("orientation", [1, 3, 5, 6])
def test_pil_images_that_are_opened_from_a_file_are_read_like_the_file(predictor, tmp_path, orientation):
    """Pillow turns a TIFF without compression twice if it is opened by name; 16-bit grey keeps its upper eight bits."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    grey = noise(30, 20)[..., 0]
    for name, values in (("a.tif", grey), ("b.tif", grey.astype(np.uint16) * 250), ("c.png", grey)):
        Image.fromarray(values).save(tmp_path / name, exif=exif)
        found, expected = (
            predictor.predict(image, EXPRESSION) for image in (Image.open(tmp_path / name), tmp_path / name)
        )
        np.testing.assert_array_equal(found.probability, expected.probability)


@pytest.mark.parametrize(
    ("image", "expression", "message"),
    [
        *((np.zeros(shape, np.uint8), EXPRESSION, "RGB") for shape in ((4, 4), (4, 4, 4), (0, 4, 3))),
        (np.zeros((4, 4, 3), np.float32), EXPRESSION, "RGB"),
        ([noise(4, 4)], EXPRESSION, "type list: .*predict_batch"),
        (None, EXPRESSION, "type NoneType"),
        (b"a.png", EXPRESSION, "type bytes"),
        (noise(4, 4), [EXPRESSION], "must be text.*list"),
        (noise(4, 4), " ", "empty"),
        (noise(4, 4), "caf\udcff", "UTF-8"),
    ],
)
def test_inputs_of_a_wrong_kind_are_refused(predictor, image, expression, message):
    with pytest.raises(UserError, match=message):
        predictor.predict(image, expression)


def test_words_beyond_the_models_vocabulary(predictor, monkeypatch):
    monkeypatch.setattr(predictor, "config", load_config(overrides={**SMALLEST, "bert_vocab_size": 2000}))
    with pytest.raises(UserError, match="beyond bert_vocab_size 2000"):
        predictor.predict(noise(9, 9), EXPRESSION)


def test_a_checkpoint_needs_its_configuration(checkpoint, tmp_path):
    (tmp_path / "best.ckpt").write_bytes(checkpoint.read_bytes())
    with pytest.raises(UserError, match=r"config\.yaml"):
        Predictor(tmp_path / "best.ckpt")
    with pytest.raises(UserError, match="no checkpoint"):
        Predictor(tmp_path / "none.ckpt")
    with pytest.raises(UserError, match="path of a file"):
        Predictor(["best.ckpt"])


def test_half_precision_is_float32_on_a_cpu(checkpoint, tmp_path, caplog):
    """The checkpoint was trained in bfloat16 on a device and was copied with its vocabulary."""
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
    assert (half.config.run.precision, half.config.run.device_target) == ("fp32", "CPU")


def test_box_by_hand():
    mask = np.zeros((10, 12), bool)
    assert Prediction(mask, mask.astype(np.float32)).box is None
    mask[3:5, 7] = True
    assert Prediction(mask, mask).box == (7, 3, 1, 2)
    mask[9, 0] = True
    assert Prediction(mask.copy(), mask).box == (0, 3, 8, 7)
