"""Pictures of what a model does on a few samples, made while it is validated."""

from __future__ import annotations

import numpy as np

from coupalign.config import Config
from coupalign.data.dataset import Split
from coupalign.data.transform import restore_image
from coupalign.overlay import overlay

COUNT = 4


class Pictures:
    """Input, target and prediction side by side, of the first samples with images of their own.

    ``evaluate_split`` calls it with each sample: always in the same order, so that the samples are the same each time.

    Attributes:
        drawn: pairs of a name, which has the expression, and a picture (S, 3S, 3) uint8 RGB.
    """

    def __init__(self, config: Config, split: Split):
        self._threshold = config.evaluation.threshold
        self._records = split.records
        self._images: set[int] = set()
        self.drawn: list[tuple[str, np.ndarray]] = []

    def __call__(self, row: int, sample: dict[str, np.ndarray], probability: np.ndarray) -> None:
        """Takes in row number `row` of the split, as ``Split.samples`` gives it, and its probability (S, S)."""
        image = int(self._records["image_id"][row])
        if len(self.drawn) == COUNT or image in self._images:
            return
        self._images.add(image)
        rgb = restore_image(sample["image"])
        masks = sample["input_target"], probability > self._threshold
        self.drawn.append(
            (
                f"{row}: {self._records['expression'][row]}",
                np.concatenate([rgb, *(overlay(rgb, mask) for mask in masks)], axis=1),
            )
        )
