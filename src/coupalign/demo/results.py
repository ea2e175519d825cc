"""What the page keeps of a request, and the pictures that it makes of that without the model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from coupalign.data.transform import probability_at
from coupalign.demo.asked import read_expressions, read_upload
from coupalign.demo.engines import Answer, Engine
from coupalign.inference.predict import slug
from coupalign.inference.predictor import Prediction
from coupalign.overlay import spotlight
from coupalign.visual.alignment import draw_alignment
from coupalign.visual.heat import heat

SHOWN_SIDE = 1024  # pixels of the longer side of pictures in the page, at most
_SMALLEST_SIDE = 480  # below, they are drawn larger: an outline of a pixel is then as thin as it looks


@dataclass(frozen=True)
class Result:
    """A request that was answered.

    Attributes:
        stem: of the image's file.
        size: (H, W) of the image.
        picture: (h, w, 3) uint8, the image as the page shows it.
        expressions, answers: one of each for what was asked.
    """

    stem: str
    size: tuple[int, int]
    picture: np.ndarray
    expressions: list[str]
    answers: list[Answer]

    def mask(self, number: int, threshold: float) -> np.ndarray:
        """(H, W) bool, the mask at the image's own size, as predict.py writes it."""
        return probability_at(self.answers[number].probability, *self.size) > threshold

    def mask_name(self, number: int) -> str:
        return f"{slug(self.stem)}-{number + 1}-{slug(self.expressions[number])}.mask.png"

    def spotlight(self, number: int, threshold: float) -> np.ndarray:
        return spotlight(self.picture, self._shown(number) > threshold)

    def probability(self, number: int) -> np.ndarray:
        """The map of probabilities in colours from 0 to 1, shaded by the image."""
        return heat(self.picture, self._shown(number), 1)

    def alignment(self, number: int, threshold: float) -> np.ndarray:
        """The page of ``coupalign.visual.alignment`` as pixels; for answers with proposals."""
        answer, probability = self.answers[number], self._shown(number)
        about = f"{self.size[1]}×{self.size[0]} pixels; threshold {threshold:g}"
        return draw_alignment(
            self.picture,
            self.expressions[number],
            Prediction(probability > threshold, probability, answer.proposals),
            about,
        ).pixels()

    def _shown(self, number: int) -> np.ndarray:
        return probability_at(self.answers[number].probability, *self.picture.shape[:2])


def ask(engine: Engine, path: str | os.PathLike | None, text: str) -> Result:
    """Runs the model on an uploaded image, once for every line of `text`. Raises: Refused."""
    rgb = read_upload(path)
    expressions = read_expressions(text, engine.tokenizer)
    answers = [engine.answer(rgb, expression) for expression in expressions]
    return Result(Path(path).stem, rgb.shape[:2], _picture(rgb), expressions, answers)


def _picture(rgb: np.ndarray) -> np.ndarray:
    side = max(rgb.shape[:2])
    wanted = min(max(side, _SMALLEST_SIDE), SHOWN_SIDE)
    size = [max(round(wanted * length / side), 1) for length in rgb.shape[1::-1]]
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if wanted < side else cv2.INTER_CUBIC)
