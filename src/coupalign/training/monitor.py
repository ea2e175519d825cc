"""What a run tells of itself while it trains, and a picture of it at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from coupalign.training.stopwatch import PARTS
from coupalign.training.tables import JsonLines, Table

LOSSES = ("loss", "segmentation_loss", "auxiliary_loss")
STEP_COLUMNS = ("step", *LOSSES, "learning_rate", "skipped")
VALIDATION_COLUMNS = ("oIoU", "mIoU", "prec@0.5")
EPOCH_COLUMNS = (
    "epoch",
    "step",
    "samples",
    "seconds",
    *LOSSES,
    "learning_rate",
    "skipped",
    "samples_per_second",
    *PARTS,
    *VALIDATION_COLUMNS,
)
# Where TensorBoard shows what of a step and of an epoch.
STEP_TAGS = {**{name: f"train/{name}" for name in STEP_COLUMNS[1:]}, **{name: f"time/{name}" for name in PARTS}}
EPOCH_TAGS = {
    **{name: f"epoch/{name}" for name in (*LOSSES, "samples_per_second")},
    **{name: f"validation/{name}" for name in VALIDATION_COLUMNS},
}


class Monitor:
    """Hands the figures of a step and of an epoch to steps.csv, curve.csv, log.jsonl and TensorBoard.

    Args:
        directory: where these are.
        tensorboard: whether there are events for TensorBoard too.
        source: directory of the run to go on with, the same or another; None at the start of one. Only what it tells of
            the first `step` steps and the first `epochs` epochs stands.

    Raises: OSError or UserError where something cannot be written, as all methods do.
    """

    def __init__(self, directory: Path, tensorboard: bool, source: Path | None = None, step: int = 0, epochs: int = 0):
        self.directory = directory
        before = {name: source and source / name for name in ("steps.csv", "curve.csv", "log.jsonl")}
        self._steps = Table(directory / "steps.csv", STEP_COLUMNS, before["steps.csv"], step)
        self._epochs = Table(directory / "curve.csv", EPOCH_COLUMNS, before["curve.csv"], epochs)
        last = {"step": step, "epoch": epochs}
        self._log = JsonLines(
            directory / "log.jsonl",
            before["log.jsonl"],
            lambda line: line["kind"] in last and line[line["kind"]] <= last[line["kind"]],
        )
        self._events = None
        if tensorboard:
            from coupalign.training.events import Events  # takes half a second that a run without it need not wait

            self._events = Events(directory / "tensorboard", step + 1)

    def step(self, figures: Mapping[str, float]) -> None:
        """Tells of a step: what STEP_COLUMNS and PARTS name, and its ``epoch``."""
        self._steps.add(figures)
        self._log.add({"kind": "step", "time": round(time.time(), 3), **figures})
        if self._events:
            self._events.scalars(int(figures["step"]), _tagged(figures, STEP_TAGS))

    def epoch(self, figures: Mapping[str, float], pictures: Sequence[tuple[str, np.ndarray]] = ()) -> None:
        """Tells of an epoch: those of EPOCH_COLUMNS that there are; pictures of its validation, each with a name."""
        self._epochs.add(figures)
        self._log.add({"kind": "epoch", "time": round(time.time(), 3), **figures})
        if self._events:
            self._events.scalars(int(figures["step"]), _tagged(figures, EPOCH_TAGS))
            self._events.images(int(figures["step"]), [(f"validation/{name}", rgb) for name, rgb in pictures])

    def flush(self) -> None:
        """Returns when all that was told would survive a power cut."""
        for each in (self._steps, self._epochs, self._log, self._events):
            if each:
                each.flush()

    def draw(self) -> None:
        """Writes curve.png."""
        from coupalign.visual.curves import save_curves  # matplotlib takes a second, and is for the end alone

        save_curves([self.directory], self.directory / "curve.png")

    def close(self) -> None:
        """Ends it; what could not be written was reported where it was told."""
        with suppress(OSError):
            if self._events:
                self._events.close()


def _tagged(figures: Mapping[str, Any], tags: Mapping[str, str]) -> dict[str, float]:
    return {tag: figures[name] for name, tag in tags.items() if name in figures}
