"""What a run writes down while it trains: configuration, curve, checkpoints."""
from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import mindspore
from mindspore import Parameter

from src.config import Config
from src.errors import UserError
from src.files import atomic_path, find_file, make_directory
from src.training.state import Progress, read_state, save_state

STEP_COLUMNS = ("step", "loss", "segmentation_loss", "auxiliary_loss", "learning_rate", "skipped")
VALIDATION_COLUMNS = ("oIoU", "mIoU", "prec@0.5")
EPOCH_COLUMNS = ("epoch", "step", "samples", "seconds", "loss", "segmentation_loss", "auxiliary_loss",
                 "learning_rate", "skipped", "samples_per_second", *VALIDATION_COLUMNS)
TABLES = {"steps.csv": STEP_COLUMNS, "curve.csv": EPOCH_COLUMNS}

State = tuple[Path, dict[str, Parameter], Progress]


def find_state(config: Config) -> State | None:
    """What the key ``resume`` asks to go on from: the checkpoint, its parameters and progress; None to start afresh.

    "auto" is the newest whole checkpoint in output_dir; others are passed over with a warning.

    Raises: UserError where output_dir holds another run, or no checkpoint is whole.
    """
    directory = Path(config.output_dir).expanduser()
    if config.resume not in ("never", "auto"):
        path = find_file(config.resume)
        newer = _checkpoints(directory)
        if path.resolve() in [each.resolve() for each in newer]:
            newer = newer[:[each.resolve() for each in newer].index(path.resolve())]
            if newer:
                raise UserError(f"{directory} holds newer checkpoints than {path} ({newer[0].name}): go on from there in "
                                "another --output_dir, or remove them")
        elif (directory / "curve.csv").exists():
            raise UserError(f"{directory} already holds a run, and {path} is none of it: choose another --output_dir")
        return path, *read_state(path)
    if config.resume == "never":
        if (directory / "curve.csv").exists():
            raise UserError(f"{directory} already holds a run: choose another --output_dir, go on with it by "
                            "--resume auto, or remove it")
        return None
    damaged = None
    for path in _checkpoints(directory):
        try:
            return path, *read_state(path)
        except UserError as error:
            damaged = damaged or error
            print(f"warning: {error}", file=sys.stderr)
    if damaged:
        raise UserError(f"{directory} holds checkpoints, but none to go on from: {damaged}")
    return None


class Record:
    """The directory of a run.

    It holds config.yaml, steps.csv, curve.csv (a row an epoch); last.ckpt and the ``keep_checkpoints`` before it,
    step_<number>.ckpt, from which training can go on; and best.ckpt, the weights alone.

    Args:
        state: what the run goes on from, as find_state gives it: tables end where it stands.

    Raises: UserError where files cannot be written.
    """

    def __init__(self, config: Config, state: State | None):
        self.directory = make_directory(config.output_dir)
        self._keep = config.keep_checkpoints
        self._last_step = None
        with self._disk():
            _remove_leftovers(self.directory)
            if state:
                path, _, progress = state
                if path.resolve() == (self.directory / "last.ckpt").resolve():
                    self._last_step = progress.step
                self._cut(path.parent / "steps.csv", progress.step)
                self._cut(path.parent / "curve.csv", progress.epochs)
            else:
                for name, columns in TABLES.items():
                    with atomic_path(self.directory / name) as temporary, open(temporary, "w", newline="") as file:
                        csv.writer(file).writerow(columns)
        config.save(self.directory / "config.yaml")

    def step(self, row: Sequence[float]) -> None:
        """Adds a row of STEP_COLUMNS, at once, so that a run can be watched; each figure with all its digits."""
        self._append("steps.csv", row)

    def epoch(self, values: dict[str, float]) -> None:
        """Adds a row of EPOCH_COLUMNS; what was not measured stays empty."""
        self._append("curve.csv", [values.get(column, "") for column in EPOCH_COLUMNS])

    def save(self, parameters: Mapping[str, Parameter], progress: Progress) -> None:
        """Writes last.ckpt; what it held before becomes a step_<number>.ckpt, of which some are kept."""
        last = self.directory / "last.ckpt"
        with self._disk():
            for name in TABLES:  # a checkpoint that survives a power cut finds its rows there
                with open(self.directory / name, "rb") as file:
                    os.fsync(file.fileno())
            with atomic_path(last) as path:
                save_state(path, parameters, progress)
                if self._keep and last.exists() and self._last_step not in (None, progress.step):
                    os.replace(last, self.directory / f"step_{self._last_step:08}.ckpt")
            self._last_step = progress.step
            for old in _checkpoints(self.directory)[1 + self._keep:]:
                old.unlink()

    def save_best(self, weights: Mapping[str, Parameter]) -> None:
        """Writes best.ckpt."""
        with self._disk(), atomic_path(self.directory / "best.ckpt") as path:
            mindspore.save_checkpoint([{"name": name, "data": each} for name, each in weights.items()], str(path))

    def _append(self, name: str, row: Sequence) -> None:
        with self._disk(), open(self.directory / name, "a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(row)

    def _cut(self, source: Path, last: int) -> None:
        """Begins a table with the whole rows of another up to number `last`."""
        lines = source.read_bytes().splitlines(keepends=True) if source.exists() else []
        kept = [line for line in lines[1:] if line.endswith(b"\n") and int(line.split(b",")[0]) <= last]
        with atomic_path(self.directory / source.name) as temporary:
            header = ",".join(TABLES[source.name]).encode() + b"\r\n"
            temporary.write_bytes(b"".join([header, *kept]))

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except (OSError, UserError) as error:
            with suppress(OSError):
                _remove_leftovers(self.directory)
            if isinstance(error, UserError):
                raise
            raise UserError(f"{self.directory} cannot be written ({error.strerror or error}); its checkpoints are whole: "
                            "mend it and go on with --resume auto") from error


def _checkpoints(directory: Path) -> list[Path]:
    """Checkpoints of a run that training may go on from, newest first."""
    last = directory / "last.ckpt"
    return [last] * last.exists() + sorted(directory.glob("step_*.ckpt"), reverse=True)


def _remove_leftovers(directory: Path) -> None:
    """Removes what a process that was killed, or a full disk, left of files half written."""
    for name in ("last", "best", "steps", "curve", "config"):
        for path in directory.glob(f".{name}.????????.*"):
            path.unlink(missing_ok=True)
