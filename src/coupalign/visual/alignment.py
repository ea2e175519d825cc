"""How one prediction was made (paper, Figure 4): word-pixel attention, gates, weighted masks."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from scipy.special import expit

from coupalign.inference.prediction import Details, Prediction
from coupalign.visual.figures import MUTED, add_scale, fitted, heading, heat, mosaic, new_figure, show, wrapped

_WIDTH, _GAP = 1240, 10
_MASKS = 10  # in a row
_ABOUT_WPA = (
    "Pixels over words: the share of its text that each pixel takes from a word (Eq 4); the maps of a column add up to "
    "1 at every pixel. Words over pixels: the share of its image that a word takes from each pixel; each map adds up "
    "to 1. The word pieces of a word are summed on the left and averaged on the right, which keeps both sums. Squares "
    "are the cells of the stage's feature map. The colours of each column go from 0 to its largest share, which stands "
    "below it. Gate: the mean magnitude of the gate's tanh (Eq 6), 0 closed, 1 open."
)
_ABOUT_SMA = (
    "Every mask as a probability, with its weight Q_w (Eq 11), largest weight first; the weights add up to 1. The "
    "prediction is the weighted sum of the masks' logits (Eq 12)."
)
_ABOUT_NO_SMA = "The model has no Sentence-Mask Alignment: its only mask is the prediction."


def words_of_pixels(details: Details) -> list[np.ndarray]:
    """Attention of pixels over words, one (words, H_i, W_i) array per stage: the sum over the pieces of a word."""
    slots = [slots for _, slots in details.words]
    return [np.stack([each[..., pieces].sum(-1) for pieces in slots]) for each in details.text_to_image]


def pixels_of_words(details: Details) -> list[np.ndarray]:
    """Attention of words over pixels, one (words, H_i, W_i) array per stage: the mean over the pieces of a word."""
    slots = [slots for _, slots in details.words]
    return [np.stack([each[pieces].mean(0) for pieces in slots]) for each in details.image_to_text]


def draw_alignment(rgb: np.ndarray, expression: str, prediction: Prediction, about: str = "") -> Figure:
    """The picture of a prediction with details, made for `rgb` (H, W, 3) uint8; `about` says where it comes from."""
    details = prediction.details
    assert details is not None
    columns = max(len(details.text_to_image) + len(details.image_to_text), 5)
    image = fitted(rgb, 380, 400)
    cell = fitted(rgb, 1000 // columns, 160)
    mask = fitted(rgb, 108, 150)
    mask_rows = -(-len(details.weights) // _MASKS)
    title = wrapped(expression, 95)
    heights = [image.shape[0] + 90 + 24 * title.count("\n")]
    if details.text_to_image:
        heights.append(len(details.words) * (cell.shape[0] + _GAP) + 240)
    heights.append(mask_rows * (mask.shape[0] + 32) + 90)
    figure = new_figure(_WIDTH, sum(heights))
    parts = list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    heading(parts[0], title, about)
    _draw_prediction(parts[0], image, prediction)
    if details.text_to_image:
        heading(parts[1], "Word-Pixel Alignment", _ABOUT_WPA)
        _draw_attention(parts[1], cell, details)
    heading(parts[-1], "Sentence-Mask Alignment", _ABOUT_SMA if len(details.masks) > 1 else _ABOUT_NO_SMA)
    _draw_masks(parts[-1], mask, details)
    return figure


def _draw_prediction(part, image: np.ndarray, prediction: Prediction) -> None:
    height, width = image.shape[:2]
    axes = part.subplots(1, 3)
    show(axes[0], image, "image")
    title = f"prediction: {_percent(prediction.mask.mean())} of the image"
    show(axes[1], fitted(image, width, height, prediction.mask), title)
    show(axes[2], heat(image, fitted(prediction.probability, width, height), 1), "probability")
    add_scale(part, axes[2], "1", shrink=0.5)


def _draw_attention(part, image: np.ndarray, details: Details) -> None:
    """One row per word, one column per stage and direction."""
    directions = [("Pixels over words", words_of_pixels(details), details.image_gates)]
    if details.image_to_text:
        directions.append(("Words over pixels", pixels_of_words(details), details.text_gates))
    axes = part.subplots(1, len(directions), squeeze=False)[0]
    for number, (axis, (title, maps, gates)) in enumerate(zip(axes, directions)):
        rows = [[heat(image, each[word], each.max()) for each in maps] for word in range(len(details.words))]
        picture, lefts, tops = mosaic(rows, _GAP)
        show(axis, picture, title, size=12, weight="bold", pad=58)
        height, width = image.shape[:2]
        for left, stage, attention, gate in zip(lefts, details.stages, maps, gates):
            side = f"{attention.shape[1]}×{attention.shape[2]}"
            middle = left + width / 2
            axis.text(middle, -6, f"stage {stage}\n{side}\ngate {gate:.2f}", ha="center", va="bottom", size=9)
            axis.text(middle, picture.shape[0] + 6, f"0 – {_percent(attention.max())}", ha="center", va="top", size=9)
        words = [wrapped(word, 14, 2) for word, _ in details.words]
        axis.set_yticks([top + height / 2 for top in tops], words if not number else [""] * len(words))
    add_scale(part, list(axes), "largest share", orientation="horizontal", aspect=40, shrink=0.3, pad=0.03)


def _draw_masks(part, image: np.ndarray, details: Details) -> None:
    pictures = [heat(image, expit(logits), 1) for logits in details.masks]
    rows = [pictures[start : start + _MASKS] for start in range(0, len(pictures), _MASKS)]
    rows[0] += [np.full_like(image, 255)] * (_MASKS - len(rows[0]))
    picture, lefts, tops = mosaic(rows, _GAP, below=20)
    axis = part.subplots()
    show(axis, picture)
    for place, weight in enumerate(details.weights):
        x, y = lefts[place % _MASKS], tops[place // _MASKS] + image.shape[0] + 4
        axis.text(x, y, f"{place + 1}.", va="top", size=9, color=MUTED)
        axis.text(x + image.shape[1], y, f"{100 * weight:.2f} %", ha="right", va="top", size=9)


def _percent(share: float) -> str:
    """A share with two or three digits: 100 %, 12 %, 3.5 %, 0.35 %, 0.012 %."""
    return f"{float(f'{100 * share:.2g}'):g} %"
