"""Checks that commands make before MindSpore is imported and before any rank joins."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from coupalign.config import Config, TrainingConfig
from coupalign.data.prepared import check_objects, check_split, read_meta
from coupalign.data.tokenizer import Tokenizer
from coupalign.errors import UserError
from coupalign.files import check_directory, find_checkpoint, find_file


def rank_count() -> int:
    """Number of ranks that msrun starts, or 1 without it. Raises: UserError for ranks that something else started."""
    for name in ("RANK_SIZE", "OMPI_COMM_WORLD_SIZE"):  # of rank tables and of mpirun
        size = os.environ.get(name) or "1"
        if size != "1" and "MS_ROLE" not in os.environ:
            raise UserError(
                f"{name} is {size}, but msrun did not start this process, so every rank would work alone: start them "
                f"with scripts/run_distribute_*.sh or msrun (on ModelArts: MA_RUN_METHOD=msrun), or unset {name}"
            )
    return int(os.environ.get("MS_WORKER_NUM") or 1)


def check_exists(path: str | os.PathLike, option: str) -> Path:
    """The file or directory that `path` means. Raises: UserError, which names the `option`, if it is missing."""
    found = find_file(path)
    if not found.exists():
        raise UserError(f"no file or directory {path}: check {option}")
    return found


def check_model(config: Config, checkpoint: str | os.PathLike) -> None:
    """Checks that a checkpoint and the vocabulary exist and can be read. Raises: UserError."""
    find_checkpoint(checkpoint)
    check_vocabulary(config)


def check_vocabulary(config: Config) -> None:
    """Checks that the vocabulary can be read. Raises: UserError."""
    Tokenizer(config.data.vocab_file, config.model.max_tokens)


def check_data(config: Config, splits: Sequence[str] | None = None) -> None:
    """Checks that `data_dir` has the splits (default: all it should have), made for this configuration.

    Raises: UserError.
    """
    for split in splits or read_meta(find_file(config.data.directory)).get("splits", [""]):
        check_split(config, split)


def check_batch_size(config: Config, ranks: int) -> int:
    """Samples that a rank processes at a time. Raises: UserError if the batch cannot be divided evenly."""
    size, steps = config.training.batch_size, config.training.accumulation_steps
    if size % (ranks * steps):
        raise UserError(
            f"batch_size {size} does not divide among {ranks} devices and accumulation_steps {steps}: set batch_size "
            f"to a multiple of {ranks * steps}"
        )
    return size // (ranks * steps)


def check_steps(settings: TrainingConfig, samples: int) -> int:
    """Updates of an epoch with `samples` samples. Raises: UserError if there are none."""
    if samples < settings.batch_size:
        raise UserError(
            f"an epoch of split {settings.train_split} has {samples} samples, fewer than batch_size "
            f"{settings.batch_size}: set batch_size to {samples} or less"
        )
    return samples // settings.batch_size


def check_warmup(settings: TrainingConfig, steps_per_epoch: int) -> None:
    """Checks that the warm-up is shorter than the decay. Raises: UserError."""
    decay_steps = settings.decay_epochs * steps_per_epoch
    if settings.warmup_steps >= decay_steps:
        raise UserError(
            f"warmup_steps {settings.warmup_steps} leaves none of the {decay_steps} steps of decay_epochs "
            f"{settings.decay_epochs} for the decay: set warmup_steps below {decay_steps}"
        )


def check_tracker(settings: TrainingConfig) -> None:
    """Checks that the package of the tracker is installed. Raises: UserError."""
    tracker = settings.tracker
    if tracker in ("wandb", "mlflow") and find_spec(tracker) is None:
        raise UserError(f"tracker is {tracker}, which is not installed: pip install {tracker}, or choose tensorboard")


def check_training(config: Config, ranks: int) -> None:
    """Checks what a training on `ranks` devices reads and writes. Raises: UserError."""
    settings, directory = config.training, check_directory(config.run.output_dir)
    check_tracker(settings)
    check_batch_size(config, ranks)
    samples, kind = 0, "referents" if settings.train_sentences == "random" else "expressions"
    configs = config.data_sets()
    for each, weight in zip(configs, config.data.data_weights or [1.0] * len(configs)):
        check_data(each, [settings.train_split, settings.val_split])
        counts = read_meta(find_file(each.data.directory))["splits"][settings.train_split]
        # What train_families and other data sets' splits leave of these, only the trainer counts.
        samples += round(weight * counts[kind]) if len(configs) > 1 else counts[kind]
        check_objects(each, settings.train_split)
    check_warmup(settings, check_steps(settings, samples))
    if settings.init_checkpoint:
        find_checkpoint(settings.init_checkpoint)
    if settings.resume not in ("never", "auto"):
        find_checkpoint(settings.resume)
    if settings.resume == "never" and (directory / "curve.csv").exists():
        raise UserError(
            f"{directory} already holds a run: choose another --output_dir, continue it with --resume auto, "
            "or remove it"
        )


def free_port(host: str, port: int) -> int:
    """`port`, or any free one if it is 0, after a test that it can be used. Raises: UserError."""
    if port != 0 and not 1024 <= port <= 65535:
        raise UserError(f"--port {port}: choose one from 1024 to 65535, or 0 for any free port")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
            return tried.getsockname()[1]
    except OSError as error:
        raise UserError(f"{host}:{port} cannot be used ({error.strerror}): choose another --port or --host") from error
