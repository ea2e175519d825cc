"""Training states: everything a training needs to resume as if it had never stopped, in one checkpoint file."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
from mindspore import Parameter

from coupalign.checkpoints.loading import first_few, read_checkpoint, set_parameters
from coupalign.config import Config, config_keys
from coupalign.errors import UserError
from coupalign.files import find_file

logger = logging.getLogger(__name__)

_ENTRY = "training_state"  # of the checkpoint, beside the parameters of model and optimizer


@dataclass
class Progress:
    """Progress of a training. Sample order, dropout and other random choices follow from the seed and these numbers."""

    config: dict[str, Any]  # ``Config.as_dict()``
    data: str  # fingerprint of the training split
    step: int = 0  # updates done
    epochs: int = 0  # epochs finished, including validation
    learning_rate: float = 0.0  # of the last step
    # Sums of losses and learning rate over the epoch's finite steps so far, in the order of the trainer.
    sums: list[float] = field(default_factory=list)
    skipped: int = 0  # steps of the current epoch that were not finite
    skipped_in_row: int = 0  # length of the current series of steps that were not finite
    best: float = -1.0  # highest oIoU on val_split
    seconds: float = 0.0  # time spent


State = tuple[Path, dict[str, Parameter], Progress]


def find_state(config: Config) -> State | None:
    """The training state that the key ``resume`` selects; None to start a new training.

    "auto" selects the newest complete checkpoint in output_dir; the others are skipped with a warning.

    Raises: UserError if output_dir holds another run, or no checkpoint can be resumed.
    """
    directory = Path(config.run.output_dir).expanduser()
    holds_run = (directory / "curve.csv").exists()
    if config.training.resume == "never":
        if holds_run:
            raise UserError(
                f"{directory} already holds a run: continue it with --resume auto, choose another --output_dir, or "
                "remove it"
            )
        return None
    existing = checkpoints(directory)
    if config.training.resume != "auto":
        path = find_file(config.training.resume)
        newer = list(takewhile(lambda each: each.resolve() != path.resolve(), existing))
        other = "choose another --output_dir"
        if holds_run and len(newer) == len(existing):
            raise UserError(f"{directory} already holds a run, which {path} is not part of: {other}")
        if len(newer) < len(existing) and newer:
            raise UserError(
                f"{directory} holds newer checkpoints than {path} ({newer[0].name}): {other}, or remove them"
            )
        return path, *read_state(path)
    first_error = None
    for path in existing:
        try:
            return path, *read_state(path)
        except UserError as error:
            first_error = first_error or error
            logger.warning("%s", error)
    if first_error:
        raise UserError(f"no checkpoint in {directory} can be resumed: {first_error}")
    return None


def checkpoints(directory: Path) -> list[Path]:
    """Checkpoints in the directory of a run that a training can resume from, newest first."""
    last = directory / "last.ckpt"
    return [last] * last.exists() + sorted(directory.glob("step_*.ckpt"), reverse=True)


def fingerprint(token_ids: np.ndarray) -> str:
    """SHA-256 of the token ids of a split, row by row. If it is equal, row numbers mean the same samples."""
    return hashlib.sha256(token_ids.tobytes()).hexdigest()


def save_state(path: Path, parameters: Mapping[str, Parameter], progress: Progress) -> None:
    """Writes parameters by name, of model and optimizer, and progress as a MindSpore checkpoint with a checksum."""
    state = json.dumps({**asdict(progress), "parameters": _digest(parameters)})
    mindspore.save_checkpoint(
        [{"name": name, "data": each} for name, each in parameters.items()],
        str(path),
        append_dict={_ENTRY: hashlib.sha256(state.encode()).hexdigest() + state},
    )


def read_state(path: Path) -> tuple[dict[str, Parameter], Progress]:
    """Parameters by name, and progress, from a file of ``save_state``. Raises: UserError."""
    saved = read_checkpoint(path)
    entry = saved.pop(_ENTRY, None)
    if not isinstance(entry, str):
        raise UserError(
            f"{path} holds no training state, or ends before it: to start a new training from its weights, pass it "
            "as --init_checkpoint instead of --resume"
        )
    checksum, state = entry[:64], entry[64:]
    values = json.loads(state) if hashlib.sha256(state.encode()).hexdigest() == checksum else None
    if not isinstance(values, dict) or values.pop("parameters", None) != _digest(saved):
        raise UserError(
            f"checkpoint {path} is damaged (wrong checksum) or of another version: resume from an older one"
        )
    if not isinstance(values.get("config"), dict) or "data" not in values:
        raise UserError(
            f"checkpoint {path} was written by another version, without its configuration or data: start a new training "
            "from its weights with --init_checkpoint"
        )
    defaults = asdict(Progress({}, ""))
    unknown = values.keys() - defaults
    if unknown:
        logger.warning("%s was written by another version: its %s is ignored", path, first_few(unknown))
    return saved, Progress(**{name: values[name] for name in defaults if name in values})


def check_unchanged(path: Path, progress: Progress, config: Config, data: str) -> None:
    """Checks that the run of a checkpoint can continue with this configuration and data fingerprint. Raises: UserError."""
    for key, value in config.as_dict().items():
        before = progress.config.get(key, value)
        if not config_keys()[key].may_change and before != value:
            raise UserError(
                f"{key} is {value!r}, but was {before!r} in the run of {path}: use the same value, or start a new "
                "training from its weights with --init_checkpoint and another --output_dir"
            )
    if progress.data != data:
        raise UserError(
            f"split {config.training.train_split} of {', '.join(config.data.directories)} is not the one that the run of {path} was "
            "trained on: set data_dir to that data set"
        )


def restore(path: Path, parameters: Mapping[str, Parameter], saved: dict[str, Parameter]) -> None:
    """Sets all ``parameters`` to the values of checkpoint ``path``, which are removed from `saved`.

    Raises: UserError if one is missing or differs.
    """
    remedy = "start a new training from its weights with --init_checkpoint and another --output_dir"
    set_parameters(path, saved, parameters, f"it was written by another version; {remedy}")


def _digest(parameters: Mapping[str, Parameter]) -> str:
    digest = hashlib.sha256()
    for name in sorted(parameters):
        value = parameters[name].asnumpy()
        digest.update(f"{name} {value.dtype} {value.shape} ".encode())
        digest.update(np.ascontiguousarray(value))  # type: ignore[arg-type]
    return digest.hexdigest()
