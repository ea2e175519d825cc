"""The result of an evaluation, as a table and as files."""

from __future__ import annotations

import csv
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from coupalign.config import Config
from coupalign.evaluation.metric import PRECISIONS, SegmentationMetric
from coupalign.files import atomic_path, write_text

SAMPLE_COLUMNS = ("image_id", "ref_id", "ann_id", "sent_id", "expression", "family", "category")
COLUMNS = ("oIoU", "mIoU", *(f"prec@0.{tenths}" for tenths in PRECISIONS))
SYNTHETIC = "refshapes"  # marked in every table, because its figures say nothing about photographs
RESOLUTIONS = {"original": "the images' own", "input": "the model's input"}
SENTENCES = {
    "all": "all expressions of a referent",
    "first": "the first expression of a referent",
    "random": "one random expression of a referent",
}


class Result:
    """Pixel counts of every sample of a split, and metrics computed from them.

    Args:
        columns: The columns SAMPLE_COLUMNS and ``baselines`` of ``Split.records``, n rows each, by name.
        counts: Intersection and union of prediction and target, (n, 2) int64.
        shuffled: The same for predictions with the expression of another image, or None.

    Attributes:
        metrics: Metrics of all samples, from ``SegmentationMetric.compute``. Training chooses the best checkpoint by oIoU.
        families: Metrics of each family of expressions, by name.
        baselines: Metrics of baselines that ignore the expression, by name: all objects of the class and the largest
            object, both at the images' own size, and this model with shuffled expressions.
        family_baselines: The baselines of each family, by name.
        checkpoint: File and SHA-256 of the evaluated checkpoint; None for a model in memory.
    """

    def __init__(
        self,
        config: Config,
        split: str,
        columns: dict[str, np.ndarray],
        counts: np.ndarray,
        shuffled: np.ndarray | None = None,
    ):
        self.config = config
        self.split = split
        self.checkpoint: dict[str, str] | None = None
        self._columns = columns
        self._counts = counts
        self.metrics = _metrics(counts)
        objects = columns["baselines"]
        at = "" if config.evaluation.eval_resolution == "original" else " (at own size)"
        baselines = {f"all of the class{at}": objects[:, :2], f"largest object{at}": objects[:, 2:]}
        if shuffled is not None:
            baselines["shuffled expressions"] = shuffled
        self.baselines = {name: _metrics(each) for name, each in baselines.items()}
        of_family = columns["family"].astype(str)
        self.families, self.family_baselines = {}, {}
        for family in sorted(set(of_family) - {""}):
            rows = of_family == family
            self.families[family] = _metrics(counts[rows])
            self.family_baselines[family] = {name: _metrics(each[rows]) for name, each in baselines.items()}

    def table(self) -> str:
        """Metrics in per cent: all, families, baselines, histogram of failures."""
        rows = [("all", self.metrics), *((f"  {name}", metrics) for name, metrics in self.families.items())]
        rows += [(f"baseline: {name}", metrics) for name, metrics in self.baselines.items()]
        width = max(len(name) for name, _ in rows)
        dataset = self.config.data.dataset + (" (synthetic)" if self.config.data.dataset == SYNTHETIC else "")
        lines = [
            f"{dataset} {self.split}: {self.metrics['samples']} samples ({self.protocol()})",
            " ".join([" " * width, "samples", *(f"{column:>8}" for column in COLUMNS)]),
        ]
        for name, metrics in rows:
            cells = (f"{100 * metrics[column]:8.2f}" for column in COLUMNS)
            lines.append(" ".join([f"{name:{width}}", f"{metrics['samples']:7}", *cells]))
        bins = (f"[.{k}, .{k + 1}) {count}" for k, count in enumerate(self.metrics["histogram"]))
        lines.append(f"samples by IoU below .5: {', '.join(bins)}")
        return "\n".join(lines)

    def protocol(self) -> str:
        """What the figures depend on besides the model, in words."""
        config = self.config
        return (
            f"{SENTENCES[config.evaluation.sentences]}, masks compared at {RESOLUTIONS[config.evaluation.eval_resolution]} size, "
            f"threshold {config.evaluation.threshold}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything except the samples, in types that JSON supports. Metrics are shares from 0 to 1."""
        config = self.config
        return {
            "dataset": config.data.dataset,
            "split": self.split,
            "samples": self.metrics["samples"],
            "sentences": config.evaluation.sentences,
            "resolution": config.evaluation.eval_resolution,
            "threshold": config.evaluation.threshold,
            "protocol": self.protocol(),
            "metrics": self.metrics,
            "families": self.families,
            "baselines": self.baselines,
            "family_baselines": self.family_baselines,
            "checkpoint": self.checkpoint,
            "config": config.as_dict(),
            "versions": {
                "python": platform.python_version(),
                "mindspore": version("mindspore"),
                "numpy": np.__version__,
            },
        }

    def save(self, directory: str | os.PathLike) -> None:
        """Writes ``as_dict()`` to ``<split>.json`` and one row per sample to ``<split>.csv``, each atomically."""
        directory = Path(directory)
        with (
            atomic_path(directory / f"{self.split}.csv") as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow([*SAMPLE_COLUMNS, "intersection", "union", "iou"])
            for row, (intersection, union) in enumerate(self._counts.tolist()):
                sample = (self._columns[name][row] for name in SAMPLE_COLUMNS)
                writer.writerow([*sample, intersection, union, f"{intersection / union if union else 1:.6f}"])
        write_text(directory / f"{self.split}.json", json.dumps(self.as_dict(), indent=2, allow_nan=False) + "\n")


def _metrics(counts: np.ndarray) -> dict[str, Any]:
    metric = SegmentationMetric()
    metric.update_counts(counts[:, 0], counts[:, 1])
    return metric.compute()
