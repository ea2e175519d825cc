"""The directory of a run, and what the disk may do to it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Parameter

from coupalign.checkpoints.state import Progress, State, checkpoints, save_state, save_weights
from coupalign.config import Config
from coupalign.errors import UserError
from coupalign.files import atomic_path, make_directory
from coupalign.training.monitor import Monitor

LEFTOVERS = ("last", "best", "steps", "curve", "log", "config")


def _writing(method: Callable[..., None]) -> Callable[..., None]:
    """A method of Record that does nothing where another rank writes, and reports what the disk refuses."""

    @functools.wraps(method)
    def guarded(self: Record, *args: Any, **kwargs: Any) -> None:
        if not self.writes:
            return
        try:
            method(self, *args, **kwargs)
        except (OSError, UserError) as error:
            with suppress(OSError):
                _remove_leftovers(self.directory)
            reason = error if isinstance(error, UserError) else _refused(self.directory, error)
            raise UserError(f"{reason}; the checkpoints are whole: mend that, and go on with --resume auto") from error

    return guarded


class Record:
    """The directory of a run.

    It holds config.yaml; what Monitor writes; last.ckpt and the ``keep_checkpoints`` before it, step_<number>.ckpt,
    from which training can go on; and best.ckpt, the weights alone.

    Args:
        state: what the run goes on from, as find_state gives it: tables end where it stands.
        writes: whether this process writes at all; of several ranks one does.

    Raises: UserError where files cannot be written, as all methods do.
    """

    def __init__(self, config: Config, state: State | None, writes: bool = True):
        self.directory = Path(config.run.output_dir).expanduser()
        self.writes = writes
        self.shows = writes and config.training.tensorboard  # whether it takes pictures
        self._keep = config.training.keep_checkpoints
        self._last_step = None
        if writes:
            try:
                self._open(config, state)
            except OSError as error:
                raise UserError(f"{_refused(self.directory, error)}: choose another --output_dir") from error

    def _open(self, config: Config, state: State | None) -> None:
        make_directory(self.directory)
        _remove_leftovers(self.directory)
        if state:
            path, _, progress = state
            if path.resolve() == (self.directory / "last.ckpt").resolve():
                self._last_step = progress.step
            self._monitor = Monitor(
                self.directory, config.training.tensorboard, path.parent, progress.step, progress.epochs
            )
        else:
            self._monitor = Monitor(self.directory, config.training.tensorboard)
        config.save(self.directory / "config.yaml")

    @property
    def has_best(self) -> bool:
        """Whether there is a best.ckpt."""
        return (self.directory / "best.ckpt").exists()

    @_writing
    def step(self, figures: Mapping[str, float]) -> None:
        """Tells of a step, as Monitor does."""
        self._monitor.step(figures)

    @_writing
    def epoch(self, figures: Mapping[str, float], pictures: Sequence[tuple[str, np.ndarray]] = ()) -> None:
        """Tells of an epoch, as Monitor does."""
        self._monitor.epoch(figures, pictures)

    @_writing
    def save(self, parameters: Mapping[str, Parameter], progress: Progress) -> None:
        """Writes last.ckpt; what it held before becomes a step_<number>.ckpt, of which some are kept."""
        last = self.directory / "last.ckpt"
        self._monitor.flush()  # a checkpoint that survives a power cut finds its rows there
        with atomic_path(last) as path:
            save_state(path, parameters, progress)
            if self._keep and last.exists() and self._last_step not in (None, progress.step):
                os.replace(last, self.directory / f"step_{self._last_step:08}.ckpt")
        self._last_step = progress.step
        for old in checkpoints(self.directory)[1 + self._keep :]:
            old.unlink()

    @_writing
    def save_best(self, weights: Mapping[str, Parameter]) -> None:
        """Writes best.ckpt."""
        save_weights(self.directory / "best.ckpt", weights)

    @_writing
    def finish(self) -> None:
        """Draws what the run was like."""
        self._monitor.draw()

    @_writing
    def close(self) -> None:
        """Ends the record."""
        self._monitor.close()


def _refused(directory: Path, error: OSError) -> str:
    return f"{directory} cannot be written ({error.strerror or error})"


def _remove_leftovers(directory: Path) -> None:
    """Removes what a process that was killed, or a full disk, left of files half written."""
    for name in LEFTOVERS:
        for path in directory.glob(f".{name}.????????.*"):
            path.unlink(missing_ok=True)
