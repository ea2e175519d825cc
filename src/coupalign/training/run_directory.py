"""The directory of a run: configuration, figures and checkpoints."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Parameter

from coupalign.checkpoints.loading import save_weights
from coupalign.checkpoints.state import Progress, State, checkpoints, save_state
from coupalign.config import Config
from coupalign.errors import UserError
from coupalign.files import atomic_path, make_directory
from coupalign.training.logs import CsvLog
from coupalign.training.step import ADDED_LOSSES, LOSSES
from coupalign.training.step_timer import TIME_COLUMNS
from coupalign.training.trackers import open_tracker

STEP_COLUMNS = ("step", *LOSSES, "learning_rate", "skipped")
VALIDATION_COLUMNS = ("oIoU", "mIoU", "prec@0.5")
EPOCH_COLUMNS = (
    *("epoch", "step", "samples", "seconds", *LOSSES, "learning_rate", "skipped", "samples_per_second"),
    *TIME_COLUMNS,
    *VALIDATION_COLUMNS,
)
# A tracker's tags of the figures of a step and of an epoch.
STEP_TAGS = {name: f"train/{name}" for name in (*STEP_COLUMNS[1:], *ADDED_LOSSES)} | {
    name: f"time/{name}" for name in TIME_COLUMNS
}
EPOCH_TAGS = {name: f"epoch/{name}" for name in (*LOSSES, *ADDED_LOSSES, "samples_per_second")}
EPOCH_TAGS |= {name: f"validation/{name}" for name in VALIDATION_COLUMNS}
_TEMPORARY = ("last", "best", "steps", "curve", "log", "config")  # stems of the files written atomically


def _on_writer(method: Callable[..., None]) -> Callable[..., None]:
    """Makes a method of RunDirectory do nothing on ranks that do not write, and turns OSError into UserError."""

    @functools.wraps(method)
    def guarded(self: RunDirectory, *args: Any, **kwargs: Any) -> None:
        if not self.writes:
            return
        try:
            method(self, *args, **kwargs)
        except (OSError, UserError) as error:
            with suppress(OSError):
                self._remove_temporary_files()
            reason = error if isinstance(error, UserError) else self._refused(error)
            raise UserError(
                f"{reason}; the checkpoints are complete: correct this, then continue with --resume auto"
            ) from error

    return guarded


class RunDirectory:
    """Writes everything that a run leaves behind, so that it can be watched and resumed.

    These are config.yaml; steps.csv, curve.csv, and what the tracker writes; last.ckpt and up to
    ``keep_checkpoints`` older step_<number>.ckpt, from which training can be resumed; and best.ckpt, which holds
    weights only. Figures are on disk when a method returns, so a full disk is noticed at once. As a context manager it
    closes the tracker, see ``Tracker``.

    Args:
        config: Configuration of the run.
        state: State that the run resumes, from ``find_state``; None for a new run. Of the figures logged before, those
            up to the state are kept.
        writes: Whether this process writes. One of several ranks does.

    Raises:
        UserError: A file cannot be written. All methods raise the same.
    """

    def __init__(self, config: Config, state: State | None, writes: bool = True):
        self.path = Path(config.run.output_dir).expanduser()
        self.writes = writes
        self._keep = config.training.keep_checkpoints
        self._last_step: int | None = None
        try:
            if writes:
                self._open(config, state)
        except OSError as error:
            raise UserError(f"{self._refused(error)}: choose another --output_dir") from error

    def _open(self, config: Config, state: State | None) -> None:
        make_directory(self.path)
        self._remove_temporary_files()
        source, step, epochs = None, 0, 0
        if state:
            source, step, epochs = state[0].parent, state[2].step, state[2].epochs
            if state[0].resolve() == (self.path / "last.ckpt").resolve():
                self._last_step = step
        self._steps = CsvLog(self.path / "steps.csv", STEP_COLUMNS, source, step)
        self._epochs = CsvLog(self.path / "curve.csv", EPOCH_COLUMNS, source, epochs)
        tracker = config.training.tracker
        self._tracker = open_tracker(tracker, self.path / tracker, step + 1, config.as_dict())
        config.save(self.path / "config.yaml")

    def __enter__(self) -> RunDirectory:
        return self

    @_on_writer
    def log_step(self, figures: Mapping[str, float]) -> None:
        """Writes the figures of a step: those of STEP_COLUMNS, ADDED_LOSSES and TIME_COLUMNS, and its ``epoch``."""
        self._steps.add(figures)
        self._track(figures, STEP_TAGS)

    @_on_writer
    def log_epoch(self, figures: Mapping[str, float], pictures: Sequence[tuple[str, np.ndarray]] = ()) -> None:
        """Writes the figures of an epoch, by EPOCH_COLUMNS, and named pictures of its validation."""
        self._epochs.add(figures)
        self._track(figures, EPOCH_TAGS)
        for name, rgb in pictures if self._tracker else ():
            self._tracker.image(int(figures["step"]), f"validation/{name}", rgb)

    @_on_writer
    def save(self, parameters: Mapping[str, Parameter], progress: Progress) -> None:
        """Writes last.ckpt. The previous last.ckpt becomes a step_<number>.ckpt; the oldest of these are deleted."""
        for log in (self._steps, self._epochs):
            log.flush()  # so that wherever a checkpoint survives a power failure, the rows before it do
        last = self.path / "last.ckpt"
        with atomic_path(last) as path:
            save_state(path, parameters, progress)
            if self._keep and last.exists() and self._last_step not in (None, progress.step):
                os.replace(last, self.path / f"step_{self._last_step:08}.ckpt")
        self._last_step = progress.step
        for old in checkpoints(self.path)[1 + self._keep :]:
            old.unlink()

    @_on_writer
    def save_best(self, weights: Mapping[str, Parameter]) -> None:
        """Writes best.ckpt."""
        save_weights(self.path / "best.ckpt", weights)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with suppress(OSError):  # reported by the method that wrote
            if self.writes and self._tracker:
                self._tracker.__exit__(kind)

    def _track(self, figures: Mapping[str, float], tags: Mapping[str, str]) -> None:
        if self._tracker:
            tagged = {tag: figures[name] for name, tag in tags.items() if name in figures}
            self._tracker.scalars(int(figures["step"]), tagged)

    def _refused(self, error: OSError) -> str:
        return f"{self.path} cannot be written ({error.strerror or error})"

    def _remove_temporary_files(self) -> None:
        """Removes incomplete files that a killed process or a full disk left."""
        for stem in _TEMPORARY:
            for path in self.path.glob(f".{stem}.????????.*"):
                path.unlink(missing_ok=True)
