"""The result of an evaluation, as a table and as files."""

from __future__ import annotations

import csv
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from coupalign.config import Config
from coupalign.evaluation.metric import PRECISIONS, GeneralisedMetric, SegmentationMetric
from coupalign.files import atomic_path, write_text

SAMPLE_COLUMNS = ("image_id", "ref_id", "ann_id", "sent_id", "expression", "family", "category")
COLUMNS = ("oIoU", "mIoU", *(f"prec@0.{tenths}" for tenths in PRECISIONS))
GENERALISED_COLUMNS = ("gIoU", "cIoU", "N-acc", "T-acc", *(f"Pr@0.{tenths}" for tenths in PRECISIONS))
# Of a sample: pixels in both masks and in either; 1 if the prediction, and 1 if the target, is not empty, else 0.
COUNTS = ("intersection", "union", "answered", "exists")
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
        counts: COUNTS of each sample, (n, 4) int64.
        shuffled: The same for predictions with the expression of another image, or None.
        mask_only: The same for masks that are kept if the model says that nothing fits, or None.

    Attributes:
        metrics: Metrics of all samples, from ``SegmentationMetric.compute``. Training chooses the best checkpoint by
        oIoU.
        families: Metrics of each family of expressions, by name.
        baselines: Metrics of baselines that ignore the expression, by name: all objects of the class and the largest
            object, both at the images' own size, and this model with shuffled expressions.
        family_baselines: The baselines of each family, by name.
        generalised: Metrics of ``GeneralisedMetric`` by row of the table: ``all``, families and baselines. Empty if
            every sample has a target and the model has no existence output.
        checkpoint: File and SHA-256 of the evaluated checkpoint; None for a model in memory.
    """

    def __init__(
        self,
        config: Config,
        split: str,
        columns: dict[str, np.ndarray],
        counts: np.ndarray,
        shuffled: np.ndarray | None = None,
        mask_only: np.ndarray | None = None,
    ):
        self.config = config
        self.split = split
        self.checkpoint: dict[str, str] | None = None
        self._columns = columns
        self._counts = counts
        self.metrics = _metrics(counts)
        exists = counts[:, 3:]
        at = "" if config.evaluation.eval_resolution == "original" else " (at own size)"
        baselines = {}
        for name, objects in zip(("all of the class", "largest object"), np.split(columns["baselines"], 2, axis=1)):
            # Both contain something whenever there is a target, so they are empty only if the union is.
            baselines[name + at] = np.concatenate([objects, objects[:, 1:] > 0, exists], axis=1)
        if shuffled is not None:
            baselines["shuffled expressions"] = shuffled
        self.baselines = {name: _metrics(each) for name, each in baselines.items()}
        of_family = columns["family"].astype(str)
        self.families, self.family_baselines = {}, {}
        for family in sorted(set(of_family) - {""}):
            rows = of_family == family
            self.families[family] = _metrics(counts[rows])
            self.family_baselines[family] = {name: _metrics(each[rows]) for name, each in baselines.items()}
        self.generalised: dict[str, dict[str, Any]] = {}
        if config.model.existence or not exists.all():
            groups = {"all": counts, **{name: counts[of_family == name] for name in self.families}}
            groups |= {f"baseline: {name}": each for name, each in baselines.items()}
            # Any union above 0 will do where there is a target, because the IoU is 0.
            groups["baseline: always empty"] = exists * [0, 1, 0, 1]
            if mask_only is not None:
                groups["baseline: mask without the existence output"] = mask_only
            self.generalised = {name: _generalised_metrics(each) for name, each in groups.items()}

    def table(self) -> str:
        """Metrics in per cent: all, families, baselines, histogram of failures; generalised metrics."""
        rows = {"all": self.metrics, **self.families}
        rows |= {f"baseline: {name}": metrics for name, metrics in self.baselines.items()}
        dataset = self.config.data.name + (" (synthetic)" if self.config.data.name == SYNTHETIC else "")
        title = f"{dataset} {self.split}: {self.metrics['samples']} samples ({self.protocol()})"
        bins = (f"[.{k}, .{k + 1}) {count}" for k, count in enumerate(self.metrics["histogram"]))
        lines = [title, *self._rows(COLUMNS, rows), f"samples by IoU below .5: {', '.join(bins)}"]
        if self.generalised:
            lines += [
                f"generalised ({self.generalised_protocol()})",
                *self._rows(GENERALISED_COLUMNS, self.generalised),
            ]
        return "\n".join(lines)

    def _rows(self, columns: Sequence[str], rows: Mapping[str, dict[str, Any]]) -> Iterator[str]:
        """Lines of a table in per cent; a metric for which no sample counts is a hyphen."""
        names = {name: f"  {name}" if name in self.families else name for name in rows}
        width = max(map(len, names.values()))
        yield " ".join([" " * width, "samples", *(f"{column:>8}" for column in columns)])
        for name, metrics in rows.items():
            cells = (f"{'-':>8}" if metrics[each] is None else f"{100 * metrics[each]:8.2f}" for each in columns)
            yield " ".join([f"{names[name]:{width}}", f"{metrics['samples']:7}", *cells])

    def protocol(self) -> str:
        """What the figures depend on besides the model, in words."""
        keys = self.config.evaluation
        return (
            f"{SENTENCES[keys.sentences]}, masks compared at {RESOLUTIONS[keys.eval_resolution]} size, "
            f"threshold {keys.threshold}"
            + (f", existence threshold {keys.existence_threshold}" if self.config.model.existence else "")
        )

    def generalised_protocol(self) -> str:
        """How the generalised metrics count, in words."""
        return (
            f"gRefCOCO: {self.generalised['all']['no_target']} samples without a target, which count 1 in gIoU if the "
            "mask is empty and else 0; Pr@X over samples with a target"
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything except the samples, in types that JSON supports. Metrics are shares from 0 to 1."""
        config = self.config
        return {
            "dataset": config.data.name,
            "split": self.split,
            "samples": self.metrics["samples"],
            "sentences": config.evaluation.sentences,
            "resolution": config.evaluation.eval_resolution,
            "threshold": config.evaluation.threshold,
            "protocol": self.protocol(),
            **({"generalised_protocol": self.generalised_protocol()} if self.generalised else {}),
            "metrics": self.metrics,
            **({"generalised": self.generalised} if self.generalised else {}),
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
            writer.writerow([*SAMPLE_COLUMNS, *COUNTS[:2], "iou", *(COUNTS[2:] if self.generalised else ())])
            for row, (intersection, union, *flags) in enumerate(self._counts.tolist()):
                sample = (self._columns[name][row] for name in SAMPLE_COLUMNS)
                iou = f"{intersection / union if union else 1:.6f}"
                writer.writerow([*sample, intersection, union, iou, *(flags if self.generalised else ())])
        write_text(directory / f"{self.split}.json", json.dumps(self.as_dict(), indent=2, allow_nan=False) + "\n")


def _metrics(counts: np.ndarray) -> dict[str, Any]:
    metric = SegmentationMetric()
    metric.update_counts(counts[:, 0], counts[:, 1])
    return metric.compute()


def _generalised_metrics(counts: np.ndarray) -> dict[str, Any]:
    metric = GeneralisedMetric()
    metric.update_counts(*counts.T)
    return metric.compute()
