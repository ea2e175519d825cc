"""The picture of one prediction: its numbers against the equations, and the command."""

from __future__ import annotations

import re

import matplotlib
import mindspore
import numpy as np
import pytest
from matplotlib.text import Text
from mindspore import Tensor

import visualise
from coupalign.config import load_config
from coupalign.data.images import load_image
from coupalign.data.transform import prepare_image
from coupalign.inference.prediction import Details, Prediction
from coupalign.inference.predictor import Predictor
from coupalign.overlay import COLOUR, spotlight, write_png
from coupalign.visual.alignment import draw_alignment, pixels_of_words, words_of_pixels
from coupalign.visual.figures import heat, pixels
from tests import equations
from tests.conftest import SMALLEST, assert_close, noise
from tests.equations import softmax, under
from tests.test_transform import bilinear

pytestmark = pytest.mark.slow

CONFIG = load_config(overrides={**SMALLEST, "max_tokens": 10})
EXPRESSION = "the hexagonal dog's ring"
WORDS = [("[CLS]", [0]), ("the", [1]), ("hexagonal", [2, 3, 4]), ("dog's", [5, 6, 7]), ("ring", [8]), ("[SEP]", [9])]


def made_up(words=WORDS, stages=(1, 2, 3, 4), both=True, masks=5, height=40, width=60) -> Prediction:
    """A prediction without a model, with attention from random scores."""
    random = np.random.default_rng(0)
    slots = sum(len(each) for _, each in words)
    scores = [random.standard_normal((2 ** (5 - stage), 2 ** (5 - stage), slots)) for stage in stages]
    weights = -np.sort(-softmax(random.standard_normal(masks)))
    details = Details(
        masks=random.standard_normal((masks, 16, 16)).astype(np.float32),
        weights=weights.astype(np.float32),
        text_to_image=tuple(softmax(each) for each in scores),
        image_to_text=tuple(softmax(each.reshape(-1, slots).T).reshape(slots, *each.shape[:2]) for each in scores)
        if both
        else (),
        tokens=["x"] * slots,
        words=words,
        stages=tuple(stages),
        image_gates=tuple(0.1 * stage for stage in stages),
        text_gates=tuple(0.2 * stage for stage in stages) if both else (),
    )
    probability = random.random((height, width), dtype=np.float32)
    return Prediction(probability > 0.5, probability, details)


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint):
    return make_checkpoint(CONFIG)


@pytest.fixture(scope="module")
def predictor(checkpoint):
    made = Predictor(checkpoint, config=CONFIG)
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)  # compiling takes longer
    return made


def test_pieces_are_joined_by_hand():
    """The pieces "a" and "##b" of one word: shares of a pixel are summed, maps of a word are averaged."""
    details = Details(
        masks=np.zeros((1, 1, 1)),
        weights=np.ones(1),
        text_to_image=(np.array([[[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]]]),),
        image_to_text=(np.array([[[0.5, 0.5]], [[0.2, 0.8]], [[0.6, 0.4]], [[1.0, 0.0]]]),),
        tokens=["[CLS]", "a", "##b", "[SEP]"],
        words=[("[CLS]", [0]), ("ab", [1, 2]), ("[SEP]", [3])],
        stages=(2,),
        image_gates=(0.5,),
        text_gates=(0.5,),
    )
    np.testing.assert_allclose(words_of_pixels(details)[0], [[[0.1, 0.7]], [[0.5, 0.2]], [[0.4, 0.1]]])
    np.testing.assert_allclose(pixels_of_words(details)[0], [[[0.5, 0.5]], [[0.4, 0.6]], [[1.0, 0.0]]])


@pytest.fixture(scope="module")
def found(predictor) -> Prediction:
    return predictor.predict(noise(50, 70), EXPRESSION, details=True)


def test_the_picture_has_the_values_of_eq_4_to_6(predictor, found):
    """Attention of whole words in both directions and the gates, computed from the inputs of the first stage."""
    details = found.details
    assert (details.words, details.stages) == (WORDS, (1, 2, 3, 4))

    model = predictor.model
    token_ids, token_mask = (each[None] for each in predictor.tokenizer.encode(EXPRESSION))
    image = Tensor(prepare_image(noise(50, 70), 64)[None])
    pixels = model.image_encoder.patch_embed(image).asnumpy().astype(np.float64)
    words = model.text_encoder.embeddings(Tensor(token_ids)).asnumpy().astype(np.float64)
    weights = {name: each.asnumpy().astype(np.float64) for name, each in model.parameters_dict().items()}
    _, _, over_words, over_pixels, to_pixels, to_words = equations.word_pixel_alignment(
        pixels, words, token_mask, under(weights, "wpa.0")
    )
    joined_sum = np.stack([over_words[0][:, slots].sum(1) for _, slots in WORDS]).reshape(-1, 16, 16)
    joined_mean = np.stack([over_pixels[0][slots].mean(0) for _, slots in WORDS]).reshape(-1, 16, 16)
    assert_close(words_of_pixels(details)[0], joined_sum, relative=1e-4)
    assert_close(pixels_of_words(details)[0], joined_mean, relative=1e-4)
    assert details.image_gates[0] == pytest.approx(to_pixels[0], rel=1e-4)
    assert details.text_gates[0] == pytest.approx(to_words[0], rel=1e-4)
    for over_words, over_pixels in zip(words_of_pixels(details), pixels_of_words(details), strict=True):
        np.testing.assert_allclose(over_words.sum(0), 1, atol=1e-5)
        np.testing.assert_allclose(over_pixels.sum((1, 2)), 1, atol=1e-5)


def test_one_direction_is_explained_too(make_checkpoint, tmp_path):
    """In graph mode and with the CPU kernels, where a graph may not return None."""
    config = load_config(overrides={**SMALLEST, "wpa_direction": "uni"})
    details = Predictor(make_checkpoint(config), config=config).predict(noise(50, 70), "cup", True).details
    assert len(details.text_to_image) == len(details.image_gates) == 4
    assert not details.image_to_text and not details.text_gates


def test_the_size_of_the_answer_can_be_chosen(predictor, found):
    at_input = predictor.predict(noise(50, 70), EXPRESSION, details=True, size=(64, 64))
    np.testing.assert_array_equal(at_input.mask, at_input.probability > CONFIG.evaluation.threshold)
    assert_close(found.probability, bilinear(at_input.probability, 50, 70), relative=1e-5)


def test_colours_are_those_of_the_scale():
    """A cell is a square of one colour."""
    shares = np.array([[0.0, 0.1, 0.2], [0.3, 0.4, 0.8]])
    colours = matplotlib.colormaps["OrRd"](shares / 0.8)[..., :3] * 255
    found = heat(np.full((20, 30, 3), 255, np.uint8), shares, 0.8)
    assert np.abs(found - colours.repeat(10, 0).repeat(10, 1)).max() <= 0.51


def test_a_spotlight_keeps_the_pixels_of_the_mask():
    rgb, mask = noise(20, 30), np.zeros((20, 30), bool)
    mask[5:9, 10:20] = True
    drawn = spotlight(rgb, mask)
    np.testing.assert_array_equal(drawn[mask], rgb[mask])
    ring = np.zeros_like(mask)
    ring[4:10, 9:21] = True
    ring &= ~mask
    assert (drawn[ring] == COLOUR).all()
    pale = drawn[~mask & ~ring].astype(int)
    assert (np.ptp(pale, axis=1) == 0).all() and pale.min() >= 175


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


def test_the_picture_has_words_gates_and_weights_in_order():
    prediction = made_up()
    said = "\n".join(texts(draw_alignment(noise(40, 60), EXPRESSION, prediction, "a.png")))
    for word in (*dict(WORDS), "gate 0.10", "gate 0.40", "gate 0.80", EXPRESSION, "a.png"):
        assert word in said
    weights = prediction.details.weights
    assert re.findall(r"^(\d+\.\d\d) %$", said, re.MULTILINE) == [f"{100 * weight:.2f}" for weight in weights]


LONG = [("[CLS]", [0]), *(("W" * 60, [k]) for k in range(1, 29)), ("[SEP]", [29])]


@pytest.mark.parametrize(
    "case",
    [
        {"words": LONG, "masks": 100, "height": 90, "width": 20},
        {"stages": (3,), "height": 2, "width": 900},
        {"stages": (2, 4), "both": False},
        {"stages": (), "both": False, "masks": 1},
    ],
)
def test_any_prediction_can_be_drawn(case):
    prediction = made_up(**case)
    figure = draw_alignment(noise(*prediction.mask.shape), "$x^2$ a_b \\frac", prediction)
    assert np.ptp(pixels(figure)) > 100
    assert ("Word-Pixel Alignment" in texts(figure)) == bool(prediction.details.stages)


def test_the_program(predictor, found, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("coupalign.devices.set_up", lambda run: None)  # would compile
    asked = []
    monkeypatch.setattr(
        "coupalign.inference.predictor.Predictor", lambda path, *, config: asked.append((config, path)) or predictor
    )
    write_png(tmp_path / "a.png", noise(50, 70))
    output = tmp_path / "deep/b.png"
    arguments = ["alignment", "--checkpoint", str(checkpoint), "--image", str(tmp_path / "a.png")]
    assert visualise.main([*arguments, "--expression", EXPRESSION, "--output", str(output)]) == 0
    assert capsys.readouterr().out.split() == [str(output)]
    assert asked == [(CONFIG, str(checkpoint))], "with the configuration beside the checkpoint"
    about = f"a.png, 70×50 pixels; {checkpoint}; threshold {CONFIG.evaluation.threshold}"
    np.testing.assert_array_equal(load_image(output), pixels(draw_alignment(noise(50, 70), EXPRESSION, found, about)))
