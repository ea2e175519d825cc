"""Pictures of validation samples for a tracker."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from coupalign.data.transform import restore_image
from coupalign.overlay import overlay

COUNT = 4


class Pictures:
    """Draws input, target and prediction of the first COUNT samples with different images.

    Pass it to ``evaluate_split`` as `on_sample`. The samples are the same in every validation.

    Args:
        records: ``Split.records``.
        threshold: Probability above which a pixel is in the predicted mask.

    Attributes:
        drawn: Pairs of a name, which includes the expression, and a picture (S, 3S, 3) uint8 RGB.
    """

    def __init__(self, records: Mapping[str, np.ndarray], threshold: float):
        self._records, self._threshold = records, threshold
        self._images: set[int] = set()
        self.drawn: list[tuple[str, np.ndarray]] = []

    def __call__(self, row: int, sample: Mapping[str, np.ndarray], probability: np.ndarray) -> None:
        """Draws row `row` of the split, with its entry of ``Split.samples`` and its probability map (S, S)."""
        image = int(self._records["image_id"][row])
        if len(self.drawn) == COUNT or image in self._images:
            return
        self._images.add(image)
        rgb = restore_image(sample["image"])
        masks = sample["input_target"], probability > self._threshold
        picture = np.concatenate([rgb, *(overlay(rgb, mask) for mask in masks)], axis=1)
        self.drawn.append((f"{row}: {self._records['expression'][row]}", picture))
