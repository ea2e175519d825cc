"""oIoU, mIoU, prec@X and the failure histogram (paper, 4.1 and Table 2); metrics of generalised RES. NumPy only."""

from __future__ import annotations

from math import fsum
from typing import Any

import numpy as np

PRECISIONS = (5, 6, 7, 8, 9)  # tenths
HISTOGRAM_BINS = 5  # of a tenth each, from 0


def intersection_and_union(prediction: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels in both and in either mask, int64, (1,) or (B,), for bool masks (h, w) or (B, h, w).

    Raises: ValueError or TypeError for another shape or dtype.
    """
    prediction, target = np.asarray(prediction), np.asarray(target)
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {prediction.shape} and target {target.shape} differ in shape")
    if prediction.ndim not in (2, 3):
        raise ValueError(f"masks must be (h, w) or (B, h, w), but are {prediction.shape}")
    if prediction.dtype != bool or target.dtype != bool:
        raise TypeError(f"masks must be bool, but prediction is {prediction.dtype} and target {target.dtype}")
    prediction, target = (mask.reshape(-1, *mask.shape[-2:]) for mask in (prediction, target))
    return ((prediction & target).sum((1, 2), dtype=np.int64), (prediction | target).sum((1, 2), dtype=np.int64))


class SegmentationMetric:
    """Collects masks, one by one or in batches, and computes the metrics over all of them.

    The IoU of a sample is its intersection over its union, or 1 if both masks are empty. Thresholds are compared with
    integer counts, so an IoU of exactly 0.7 is never above 0.7. The result does not depend on the order of samples or
    on batches.
    """

    def __init__(self) -> None:
        self._intersections: list[int] = []
        self._unions: list[int] = []

    def update(self, prediction: np.ndarray, target: np.ndarray) -> None:
        """Adds samples; arguments and errors as of ``intersection_and_union``."""
        self.update_counts(*intersection_and_union(prediction, target))

    def update_counts(self, intersections: np.ndarray, unions: np.ndarray) -> None:
        """Adds samples by their pixel counts, integers of shape (B,)."""
        self._intersections += [int(count) for count in intersections]
        self._unions += [int(count) for count in unions]

    def compute(self) -> dict[str, Any]:
        """The metrics of all samples so far. Raises: ValueError if there are none.

        ``oIoU`` (Σ intersection / Σ union), ``mIoU`` (mean IoU) and ``prec@0.5`` … ``prec@0.9`` (share of samples with
        a strictly larger IoU), all from 0 to 1; ``histogram``, the number of samples with an IoU in [0, .1), [.1, .2),
        … [.4, .5); ``samples``, the number of samples.
        """
        samples = len(self._unions)
        if not samples:
            raise ValueError("no masks to compare: call update first")
        counts = list(zip(self._intersections, self._unions))
        intersection, union = sum(self._intersections), sum(self._unions)
        metrics: dict[str, Any] = {
            "oIoU": intersection / union if union else 1.0,
            # fsum is exact in any order.
            "mIoU": fsum(i / u if u else 1.0 for i, u in counts) / samples,
        }
        for tenths in PRECISIONS:
            metrics[f"prec@0.{tenths}"] = sum(10 * i > tenths * u or not u for i, u in counts) / samples
        bins = [10 * i // u for i, u in counts if u]
        metrics["histogram"] = [bins.count(k) for k in range(HISTOGRAM_BINS)]
        metrics["samples"] = samples
        return metrics


class GeneralisedMetric:
    """Collects masks of which targets may be empty, and computes the metrics of gRefCOCO (Liu et al., GRES, CVPR 2023).

    A sample is a no-target sample if its target mask is empty. A mask is an answer if it is not empty.
    """

    def __init__(self) -> None:
        self._samples: list[tuple[int, int, bool, bool]] = []

    def update(self, prediction: np.ndarray, target: np.ndarray) -> None:
        """Adds samples; arguments and errors as of ``intersection_and_union``."""
        counts = intersection_and_union(prediction, target)
        answered, exists = (np.reshape(mask, (len(counts[0]), -1)).any(1) for mask in (prediction, target))
        self.update_counts(*counts, answered, exists)

    def update_counts(
        self, intersections: np.ndarray, unions: np.ndarray, answered: np.ndarray, exists: np.ndarray
    ) -> None:
        """Adds samples by their pixel counts, and by whether the prediction and the target are not empty, all (B,)."""
        samples = zip(intersections, unions, answered, exists)
        self._samples += [(int(i), int(u), bool(a), bool(e)) for i, u, a, e in samples]

    def compute(self) -> dict[str, Any]:
        """The metrics of all samples, from 0 to 1; None where no sample counts. Raises: ValueError without samples.

        ``gIoU``, mean IoU, in which a no-target sample counts 1 without an answer and else 0; ``cIoU``, Σ intersection
        / Σ union; ``N-acc``, share of the no-target samples without an answer; ``T-acc``, share of the target samples
        with one; ``Pr@0.5`` … ``Pr@0.9``, share of the target samples with a strictly larger IoU; ``samples``;
        ``no_target``, the number of no-target samples.
        """
        if not self._samples:
            raise ValueError("no masks to compare: call update first")
        targets = [(i, u, answered) for i, u, answered, exists in self._samples if exists]
        silent = [not answered for *_, answered, exists in self._samples if not exists]
        union = sum(u for _, u, *_ in self._samples)
        metrics: dict[str, Any] = {
            "gIoU": (fsum(i / u if u else 1.0 for i, u, _ in targets) + sum(silent)) / len(self._samples),
            "cIoU": sum(i for i, *_ in self._samples) / union if union else 1.0,
            "N-acc": sum(silent) / len(silent) if silent else None,
            "T-acc": sum(answered for *_, answered in targets) / len(targets) if targets else None,
        }
        for tenths in PRECISIONS:
            above = sum(10 * i > tenths * u or not u for i, u, _ in targets)
            metrics[f"Pr@0.{tenths}"] = above / len(targets) if targets else None
        return {**metrics, "samples": len(self._samples), "no_target": len(silent)}
