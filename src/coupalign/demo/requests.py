"""Requests of the page: what users send, and the pictures of an answered request."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from coupalign.data.tokenizer import Tokenizer
from coupalign.data.transform import probability_at
from coupalign.demo.engines import Answer, LiteEngine, MindSporeEngine
from coupalign.inference.prediction import Prediction
from coupalign.inference.results import slug
from coupalign.inference.uploads import MAX_MEGABYTES, Refused, check_expressions, check_image
from coupalign.overlay import spotlight
from coupalign.visual.alignment import draw_alignment
from coupalign.visual.figures import heat, pixels

_SHOWN_SIDES = (480, 1024)  # smallest and largest longer side of a picture on the page, in pixels


@dataclass(frozen=True)
class Result:
    """An answered request."""

    stem: str  # name of the image file without its suffix
    size: tuple[int, int]  # (H, W) of the image
    picture: np.ndarray  # (h, w, 3) uint8, the image as the page shows it
    expressions: list[str]
    answers: list[Answer]  # one per expression

    def mask(self, number: int, threshold: float) -> np.ndarray:
        """The mask at the image's own size, (H, W) bool."""
        return self._mask(number, probability_at(self.answers[number].probability, *self.size), threshold)

    def mask_name(self, number: int) -> str:
        return f"{slug(self.stem)}-{number + 1}-{slug(self.expressions[number])}.mask.png"

    def spotlight(self, number: int, threshold: float) -> np.ndarray:
        return spotlight(self.picture, self._mask(number, self._probability(number), threshold))

    def heat(self, number: int) -> np.ndarray:
        """The probability in colours from 0 to 1, shaded by the image."""
        return heat(self.picture, self._probability(number), 1)

    def alignment(self, number: int, threshold: float) -> np.ndarray:
        """The picture of ``coupalign.visual.alignment``; for answers with details."""
        probability, answer = self._probability(number), self.answers[number]
        mask = self._mask(number, probability, threshold)
        prediction = Prediction(mask, probability, answer.details)
        about = f"{self.size[1]}×{self.size[0]} pixels; threshold {threshold:g}"
        if answer.nothing_fits:
            about += f"; {answer.warnings[0]}"
        return pixels(draw_alignment(self.picture, self.expressions[number], prediction, about))

    def _mask(self, number: int, probability: np.ndarray, threshold: float) -> np.ndarray:
        return (probability > threshold) & (not self.answers[number].nothing_fits)

    def _probability(self, number: int) -> np.ndarray:
        return probability_at(self.answers[number].probability, *self.picture.shape[:2])


def ask(engine: MindSporeEngine | LiteEngine, path: str | os.PathLike | None, text: str) -> Result:
    """Runs the model on an uploaded image, once per line of `text`. Raises: Refused."""
    rgb = read_upload(path)
    expressions = read_expressions(text, engine.tokenizer)
    answers = [engine.answer(rgb, expression) for expression in expressions]
    side = max(rgb.shape[:2])
    wanted = min(max(side, _SHOWN_SIDES[0]), _SHOWN_SIDES[1])
    size = [max(round(wanted * length / side), 1) for length in rgb.shape[1::-1]]
    picture = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if wanted < side else cv2.INTER_CUBIC)
    return Result(Path(str(path)).stem, (rgb.shape[0], rgb.shape[1]), picture, expressions, answers)


def read_upload(path: str | os.PathLike | None) -> np.ndarray:
    """The image of an uploaded file, (H, W, 3) uint8, RGB, upright. Raises: Refused, as `check_image`."""
    try:
        with open(path or "", "rb") as file:
            content = file.read(MAX_MEGABYTES * 2**20 + 1)
    except OSError as error:  # uploads are removed after a while
        raise Refused("There is no image: choose one, or drop one into its box.") from error
    return check_image(content, Path(str(path)).name)


def read_expressions(text: str | None, tokenizer: Tokenizer) -> list[str]:
    """The expressions of a text, one per line; blank lines are skipped. Raises: Refused."""
    return check_expressions([line for line in (text or "").splitlines() if line.strip()], tokenizer)
