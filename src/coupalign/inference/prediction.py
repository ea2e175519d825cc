"""The result of a prediction."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from coupalign.errors import UserError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Details:
    """Intermediate results of a prediction. S is the side of the model's input, T the number of token slots.

    Attention and gates have one entry per stage i with Word-Pixel Alignment, whose feature map is (H_i, W_i);
    ``image_to_text`` and ``text_gates`` are empty if ``wpa_direction`` is uni.
    """

    masks: np.ndarray  # (N, S/4, S/4) float32, logits Y_N (Eq 12); without Sentence-Mask Alignment the mask alone
    weights: np.ndarray  # (N,) float32, Q_w (Eq 11), largest first; the sum of `masks` with these weights is the mask
    text_to_image: tuple[np.ndarray, ...]  # (H_i, W_i, T) float32, attention of each pixel over words
    image_to_text: tuple[np.ndarray, ...]  # (T, H_i, W_i) float32, attention of each word over pixels
    tokens: list[str]  # the T word pieces, with [CLS], [SEP] and [PAD]
    words: list[tuple[str, list[int]]]  # with the slots of their pieces (``Tokenizer.words``)
    stages: tuple[int, ...]  # numbers of the stages with Word-Pixel Alignment, from 1
    image_gates: tuple[float, ...]  # mean magnitude of the image gate's tanh (Eq 6), from 0 to 1
    text_gates: tuple[float, ...]  # the same for the text gate, averaged over unpadded tokens


@dataclass(frozen=True)
class Prediction:
    """The result for one image of height H and width W and one expression."""

    mask: np.ndarray  # (H, W) bool, true where the probability is above the configured threshold; empty if nothing fits
    probability: np.ndarray  # (H, W) float32
    details: Details | None = None  # if they were requested
    warnings: tuple[str, ...] = ()  # that nothing fits, and words that were cut or are not in the vocabulary
    existence: float | None = None  # probability that something fits the expression; None without this output
    nothing_fits: bool = False  # whether that probability is below the configured existence_threshold

    def proposals(self, count: int = 5, threshold: float = 0.5) -> list[Prediction]:
        """The `count` proposals of the largest weights (``details.weights``), largest first, at the size of the image.

        Raises: UserError without details.
        """
        import cv2
        from scipy.special import expit

        from coupalign.data.transform import probability_at

        if self.details is None:
            raise UserError("a prediction without details has no proposals: call predict with details=True")
        height, width = self.probability.shape
        found = []
        for logits in self.details.masks[:count]:
            side = 4 * len(logits)  # the model enlarges logits to the side of its input (Eq 12)
            probability = expit(cv2.resize(logits, (side, side), interpolation=cv2.INTER_LINEAR))
            probability = probability_at(probability, height, width)
            found.append(Prediction(probability > threshold, probability))
        return found

    @cached_property
    def box(self) -> tuple[int, int, int, int] | None:
        """Smallest box around the mask: x, y, width and height in pixels; None if the mask is empty."""
        rows, columns = self.mask.any(1).nonzero()[0], self.mask.any(0).nonzero()[0]
        if not len(rows):
            return None
        x, y = int(columns[0]), int(rows[0])
        return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1

    @cached_property
    def score(self) -> float:
        """The largest probability of a pixel, from 0 to 1."""
        return float(self.probability.max())


def nothing_fits_line(existence: float) -> str:
    """The warning if nothing fits; `existence` is the probability that something does."""
    return f"nothing in this image fits the expression (probability {existence:.2f} that something does)"
