"""What a prediction was made of, as the paper's Figure 4 shows it: word-pixel attention, gates, weighed masks."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from coupalign.inference.predictor import Prediction, Proposals
from coupalign.visual.heat import draw_scale, heat
from coupalign.visual.page import GROUND, INK, MARGIN, MUTED, RULE, SERIES, Page, fitted

_WIDTH = 1240
_LABELS = 116  # of the column of words
_GAP, _BETWEEN = 12, 32  # columns of one direction, and the two directions
_MASKS = 10  # in a row
_ABOUT_WPA = (
    "Left, pixels over words: how much of its text each pixel takes from a word; the maps of a column add up to 1 at "
    "every pixel. Right, words over pixels: where a word takes its image from; each map adds up to 1. The pieces of a "
    "word are joined, on the left by their sum, on the right by their mean, which keep both sums. Squares are cells "
    "of the stage's own map. Each column has its own colours, from 0 to its largest share; the notch below them is the "
    "share of a piece, or of a cell, if all had the same. Gate: how far the stage's gate lets the result in, the mean "
    "magnitude of its tanh, 0 for closed and 1 for open."
)
_ABOUT_SMA = (
    "Every proposal as a probability, by its weight Q_w, the largest first; the weights add up to 1. The "
    "prediction is the sum of the proposals' logits by weight."
)
_NO_SMA = "The model has no sentence-mask alignment: its one mask is the prediction."


def words_of_pixels(proposals: Proposals) -> list[np.ndarray]:
    """Attention of pixels over words, per stage (words, H_i, W_i): the sum over a word's pieces, 1 over all words."""
    return [
        np.stack([attention[..., slots].sum(-1) for _, slots in proposals.words])
        for attention in proposals.text_to_image
    ]


def pixels_of_words(proposals: Proposals) -> list[np.ndarray]:
    """Attention of words over pixels, per stage (words, H_i, W_i): the mean over a word's pieces, 1 over all pixels."""
    return [
        np.stack([attention[slots].mean(0) for _, slots in proposals.words]) for attention in proposals.image_to_text
    ]


def ranked(proposals: Proposals) -> np.ndarray:
    """Numbers of the proposals from the largest weight to the smallest; equal ones in the model's order."""
    return np.argsort(-proposals.weights, kind="stable")


def draw_alignment(rgb: np.ndarray, expression: str, prediction: Prediction, about: str = "") -> Page:
    """The page of one prediction, made with ``proposals=True`` of `rgb` (H, W, 3) uint8.

    Args:
        about: what it comes from, in a line.
    """
    page = Page(_WIDTH)
    for line in page.lines(f"“{expression}”", _WIDTH - 2 * MARGIN, 24, bold=True):
        page.y += 30
        page.text(MARGIN, page.y, line, 24, bold=True)
    page.y += 4
    page.paragraph(about)
    page.y += 20
    _draw_prediction(page, rgb, prediction)
    if prediction.proposals.text_to_image:
        page.heading("Word-pixel alignment", _ABOUT_WPA)
        _draw_attention(page, rgb, prediction.proposals)
    page.heading("Sentence-mask alignment", _ABOUT_SMA if len(prediction.proposals.masks) > 1 else _NO_SMA)
    _draw_masks(page, rgb, prediction.proposals)
    return page


def _draw_prediction(page: Page, rgb: np.ndarray, prediction: Prediction) -> None:
    box = (_WIDTH - 2 * MARGIN - 2 * 24) // 3, 400
    image = fitted(rgb, *box)
    pictures = (
        (image, "image"),
        (fitted(rgb, *box, prediction.mask), f"prediction: {_percent(prediction.mask.mean())} of the image"),
        (heat(image, fitted(prediction.probability, *box), 1), "probability"),
    )
    for number, (picture, caption) in enumerate(pictures):
        x = MARGIN + number * (box[0] + 24)
        page.picture(x, page.y, picture)
        page.text(x, page.y + picture.shape[0] + 20, caption, colour=MUTED)
    draw_scale(page, x + max(image.shape[1] - 140, 100), page.y + image.shape[0] + 10, 140, "1")
    page.y += image.shape[0] + 60


def _draw_attention(page: Page, rgb: np.ndarray, proposals: Proposals) -> None:
    """A row a word and a column a stage and direction, under its gate and above its colours."""
    pieces = sum(len(slots) for _, slots in proposals.words)
    directions = [
        ("Pixels over words", words_of_pixels(proposals), proposals.image_gates, lambda cells: 1 / pieces),
        ("Words over pixels", pixels_of_words(proposals), proposals.text_gates, lambda cells: 1 / cells),
    ]
    stages = len(proposals.stages)
    side = min((_WIDTH - 2 * MARGIN - _LABELS - _BETWEEN - (2 * stages - 2) * _GAP) // (2 * stages), 200)
    image = fitted(rgb, side, side * 1.25)
    height, inset = image.shape[0], (side - image.shape[1]) / 2
    top = page.y
    for half, (title, maps, gates, even) in enumerate(directions):
        if not maps:
            continue
        left = MARGIN + _LABELS + half * (stages * (side + _GAP) + _BETWEEN - _GAP)
        page.text(left, top + 18, title, 15, bold=True)
        for number, (stage, attention, gate) in enumerate(zip(proposals.stages, maps, gates)):
            x = left + number * (side + _GAP)
            page.text(x, top + 44, f"stage {stage}", bold=True)
            page.text(x + side, top + 44, f"{attention.shape[1]}×{attention.shape[2]}", 12, MUTED, align="right")
            _draw_gate(page, x, top + 54, side, gate)
            most = float(attention.max())
            for row, shares in enumerate(attention):
                page.picture(x + inset, top + 88 + row * (height + _GAP), heat(image, shares, most))
            draw_scale(
                page,
                x,
                top + 88 + len(attention) * (height + _GAP) + 4,
                side,
                _percent(most),
                even(attention[0].size) / most,
            )
    for row, (word, _) in enumerate(proposals.words):
        lines = page.lines(word, _LABELS - 16, 14, most=2)
        middle = top + 88 + row * (height + _GAP) + height / 2 + 5 - 9 * (len(lines) - 1)
        for number, line in enumerate(lines):
            page.text(
                MARGIN + _LABELS - 16,
                middle + 18 * number,
                line,
                14,
                align="right",
                colour=MUTED if word in ("[CLS]", "[SEP]") else INK,
            )
    page.text(MARGIN + _LABELS - 16, top + 68, "gate", 12, MUTED, align="right")
    page.y = top + 88 + len(proposals.words) * (height + _GAP) + 52


def _draw_gate(page: Page, x: float, y: float, width: float, opening: float) -> None:
    page.box(x, y + 6, width - 40, 8, GROUND, RULE)
    page.box(x, y + 6, (width - 40) * opening, 8, SERIES[0])
    page.text(x + width, y + 14, f"{opening:.2f}", 12, align="right")


def _draw_masks(page: Page, rgb: np.ndarray, proposals: Proposals) -> None:
    side = (_WIDTH - 2 * MARGIN - (_MASKS - 1) * _GAP) // _MASKS
    image = fitted(rgb, side, side * 1.25)
    top, height = page.y, image.shape[0] + 30
    for place, number in enumerate(ranked(proposals)):
        row, column = divmod(place, _MASKS)
        x, y = MARGIN + column * (side + _GAP), top + row * height
        page.picture(x + (side - image.shape[1]) / 2, y, heat(image, expit(proposals.masks[number]), 1))
        page.text(x, y + image.shape[0] + 15, f"{place + 1}.", 12, MUTED)
        weight = f"{100 * proposals.weights[number]:.2f} %"
        page.text(x + side, y + image.shape[0] + 15, weight, 12, align="right")
    page.y = top + -(-len(proposals.weights) // _MASKS) * height + 4
    draw_scale(page, MARGIN, page.y, 140, "probability 1")


def _percent(share: float) -> str:
    """Two or three digits of a share: 100 %, 12 %, 3.5 %, 0.35 %, 0.012 %."""
    return f"{float(f'{100 * share:.2g}'):g} %"
