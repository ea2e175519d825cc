"""What a run writes down while it trains: configuration, curve, checkpoints."""
from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import mindspore
from mindspore import Parameter

from src.config import Config
from src.errors import UserError
from src.files import atomic_path, make_directory

STEP_COLUMNS = ("step", "loss", "segmentation_loss", "auxiliary_loss", "learning_rate")
VALIDATION_COLUMNS = ("oIoU", "mIoU", "prec@0.5")
EPOCH_COLUMNS = ("epoch", "step", "samples", "seconds", "loss", "segmentation_loss", "auxiliary_loss",
                 "learning_rate", "samples_per_second", *VALIDATION_COLUMNS)


class Record:
    """The directory of a run: config.yaml, steps.csv, curve.csv (a row an epoch), last.ckpt and best.ckpt.

    Raises: UserError where the directory cannot be made, or holds another run already.
    """

    def __init__(self, config: Config):
        self.directory = make_directory(config.output_dir)
        if (self.directory / "curve.csv").exists():
            raise UserError(f"{self.directory} already holds a run: choose another --output_dir, or remove it")
        config.save(self.directory / "config.yaml")
        self._best = -1.0
        for name, columns in (("steps.csv", STEP_COLUMNS), ("curve.csv", EPOCH_COLUMNS)):
            self._append(name, columns)

    def step(self, row: Sequence[float]) -> None:
        """Adds a row of STEP_COLUMNS, at once, so that a run can be watched; each figure with all its digits."""
        self._append("steps.csv", row)

    def epoch(self, values: dict[str, float]) -> None:
        """Adds a row of EPOCH_COLUMNS; what was not measured stays empty."""
        self._append("curve.csv", [values.get(column, "") for column in EPOCH_COLUMNS])

    def checkpoint(self, weights: dict[str, Parameter], score: float | None = None) -> bool:
        """Writes last.ckpt, and best.ckpt too if score is the highest so far; returns whether it was."""
        names = ["last.ckpt"]
        is_best = score is not None and score > self._best
        if is_best:
            self._best = score
            names.append("best.ckpt")
        for name in names:
            with atomic_path(self.directory / name) as path:
                mindspore.save_checkpoint(weights, str(path))
        return is_best

    def _append(self, name: str, row: Sequence) -> None:
        with open(Path(self.directory, name), "a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(row)
