"""All that a training needs to go on as if it had never stopped, in one file."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
from mindspore import Parameter

from coupalign.checkpoints.loading import read_checkpoint
from coupalign.config import Config, config_keys
from coupalign.data.dataset import Split
from coupalign.errors import UserError
from coupalign.files import atomic_path, find_file

_ENTRY = "training_state"  # of the checkpoint; beside the parameters of model and optimiser


@dataclass
class Progress:
    """How far a training is.

    Order of samples, dropout and everything else that is random follow from the configuration's seed and these numbers.
    """

    config: dict[str, Any]  # Config.as_dict()
    data: str  # fingerprint of the training split
    step: int = 0  # updates made
    epochs: int = 0  # epochs finished, validation and all
    learning_rate: float = 0.0  # of the last step
    sums: list[float] = field(default_factory=list)  # of steps.csv's columns over the finite steps of the epoch so far
    skipped: int = 0  # steps of the epoch so far that were not finite
    skipped_in_row: int = 0  # the last so many steps
    best: float = -1.0  # highest oIoU on val_split
    seconds: float = 0.0  # spent


State = tuple[Path, dict[str, Parameter], Progress]


def find_state(config: Config) -> State | None:
    """What the key ``resume`` asks to go on from: the checkpoint, its parameters and progress; None to start afresh.

    "auto" is the newest whole checkpoint in output_dir; others are passed over with a warning.

    Raises: UserError where output_dir holds another run, or no checkpoint is whole.
    """
    directory = Path(config.run.output_dir).expanduser()
    holds_run = (directory / "curve.csv").exists()
    if config.training.resume not in ("never", "auto"):
        path = find_file(config.training.resume)
        newer = checkpoints(directory)
        if path.resolve() in [each.resolve() for each in newer]:
            newer = newer[: [each.resolve() for each in newer].index(path.resolve())]
            if newer:
                raise UserError(
                    f"{directory} holds newer checkpoints than {path} ({newer[0].name}): go on from there in "
                    "another --output_dir, or remove them"
                )
        elif holds_run:
            raise UserError(f"{directory} already holds a run, and {path} is none of it: choose another --output_dir")
        return path, *read_state(path)
    if config.training.resume == "never":
        if holds_run:
            raise UserError(
                f"{directory} already holds a run: choose another --output_dir, go on with it by "
                "--resume auto, or remove it"
            )
        return None
    damaged = None
    for path in checkpoints(directory):
        try:
            return path, *read_state(path)
        except UserError as error:
            damaged = damaged or error
            print(f"warning: {error}", file=sys.stderr)
    if damaged:
        raise UserError(f"{directory} holds checkpoints, but none to go on from: {damaged}")
    return None


def checkpoints(directory: Path) -> list[Path]:
    """Checkpoints of a run that training may go on from, newest first."""
    last = directory / "last.ckpt"
    return [last] * last.exists() + sorted(directory.glob("step_*.ckpt"), reverse=True)


def fingerprint(split: Split) -> str:
    """SHA-256 of the words of a split, row by row: the same numbers of rows then mean the same samples."""
    return hashlib.sha256(np.ascontiguousarray(split.records["token_ids"])).hexdigest()  # type: ignore[arg-type]


def save_weights(path: Path, weights: Mapping[str, Parameter]) -> None:
    """Writes weights by name as a MindSpore checkpoint, whole or not at all. Raises UserError where that fails."""
    with atomic_path(path) as temporary:
        mindspore.save_checkpoint([{"name": name, "data": each} for name, each in weights.items()], str(temporary))


def save_state(path: Path, parameters: Mapping[str, Parameter], progress: Progress) -> None:
    """Writes parameters by name, model's and optimiser's, and `progress` as a MindSpore checkpoint with a checksum."""
    state = json.dumps({**asdict(progress), "parameters": _digest(parameters)})
    mindspore.save_checkpoint(
        [{"name": name, "data": each} for name, each in parameters.items()],
        str(path),
        append_dict={_ENTRY: hashlib.sha256(state.encode()).hexdigest() + state},
    )


def read_state(path: Path) -> tuple[dict[str, Parameter], Progress]:
    """Parameters by name, and progress, of a file that save_state wrote.

    Raises: UserError that names the file where it is missing, damaged or without a training state.
    """
    saved = read_checkpoint(path)
    entry = saved.pop(_ENTRY, None)
    if not isinstance(entry, str):
        raise UserError(
            f"{path} holds no training state, or was cut off before it: to start a new training from its "
            "weights, give it as --init_checkpoint instead of --resume"
        )
    checksum, state = entry[:64], entry[64:]
    values = json.loads(state) if hashlib.sha256(state.encode()).hexdigest() == checksum else {}
    if not values or values.pop("parameters") != _digest(saved):
        raise UserError(f"checkpoint {path} is damaged, its checksum does not match: go on from an older one")
    return saved, Progress(**values)


def check_unchanged(path: Path, progress: Progress, config: Config, split: Split) -> None:
    """Raises UserError where the run of checkpoint `path` cannot go on with this configuration and this data."""
    for key, value in config.as_dict().items():
        before = progress.config.get(key, value)
        if not config_keys()[key].may_change and before != value:
            raise UserError(
                f"{key} is {value!r}, but was {before!r} in the run of {path}: leave it as it was, or start "
                "a new training from those weights with --init_checkpoint and another --output_dir"
            )
    if progress.data != fingerprint(split):
        raise UserError(
            f"split {split.name} of {config.data.data_dir} is not the one that the run of {path} was trained on: "
            "set data_dir to that"
        )


def set_parameters(path: Path, parameters: Mapping[str, Parameter], saved: Mapping[str, Parameter]) -> None:
    """Sets all `parameters` to what checkpoint `path` has saved. Raises: UserError where one is missing."""
    for name, parameter in parameters.items():
        if name not in saved or saved[name].shape != parameter.shape:
            raise UserError(
                f"checkpoint {path} has no {name} of shape {tuple(parameter.shape)}: it was written by "
                "another version of this program"
            )
        parameter.set_data(saved[name].value())


def _digest(parameters: Mapping[str, Parameter]) -> str:
    digest = hashlib.sha256()
    for name in sorted(parameters):
        value = parameters[name].asnumpy()
        digest.update(f"{name} {value.dtype} {value.shape} ".encode())
        digest.update(np.ascontiguousarray(value))  # type: ignore[arg-type]
    return digest.hexdigest()
