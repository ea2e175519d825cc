"""The description of a prepared data set, which is read without MindSpore."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from coupalign.config import Config
from coupalign.data.tokenizer import Tokenizer
from coupalign.errors import UserError
from coupalign.files import find_file

META_FILE = "meta.json"
FORMAT = 2  # of the MindRecord files; raised when their columns change


def read_meta(directory: Path) -> dict:
    """The description of a complete data set; empty where it is missing or cannot be read."""
    try:
        meta = json.loads((directory / META_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return meta if isinstance(meta, dict) else {}


def missing_files(directory: Path, meta: Mapping) -> list[Path]:
    """Files of the data set that are missing, or have another size than when they were written."""
    return [
        directory / name
        for name, size in meta["files"].items()
        if not (directory / name).is_file() or (directory / name).stat().st_size != size
    ]


def check_split(config: Config, split: str) -> tuple[Path, dict]:
    """Checks that `data_dir` holds the split, made for this configuration.

    Returns: the directory, and its description.

    Raises: UserError otherwise.
    """
    directory = find_file(config.data.directory)
    meta = read_meta(directory)
    again = f"run prepare_data.py again with --output {directory}"
    if not meta:
        raise UserError(
            f"{directory / META_FILE} is missing or broken, so {directory} holds no complete data set: make one with "
            "prepare_data.py and the configuration of this command (docs/data.md), or set --data_dir to another"
        )
    if meta.get("format") != FORMAT:
        raise UserError(f"{directory} was made by another version of this program: {again}")
    if split not in meta["splits"]:
        raise UserError(f"{directory} has no split {split!r}: it has {', '.join(meta['splits'])}")
    if meta["dataset"] != config.data.name:
        raise UserError(
            f"{directory} was prepared as dataset {meta['dataset']}, but dataset is {config.data.name}: "
            f"set --dataset {meta['dataset']}, or another data_dir"
        )
    if meta["max_tokens"] != config.model.max_tokens:
        raise UserError(
            f"{directory} was made with max_tokens {meta['max_tokens']}, the configuration says "
            f"{config.model.max_tokens}: {again} --max_tokens {config.model.max_tokens}"
        )
    if meta["vocabulary_sha256"] != Tokenizer(config.data.vocab_file, config.model.max_tokens).vocabulary_sha256:
        raise UserError(
            f"{directory} was made with another vocabulary than {config.data.vocab_file}: {again} "
            f"--vocab_file {config.data.vocab_file}"
        )
    missing = missing_files(directory, meta)
    if missing:
        raise UserError(f"{missing[0]} is missing, or not the file that was made: {again}")
    return directory, meta


def evaluated_splits(config: Config, splits: Sequence[str]) -> list[tuple[Config, str]]:
    """Pairs of a data set's configuration and a split to evaluate.

    Of several data sets, each is evaluated on those of `splits` that it has.

    Raises: UserError if a data set has none of them, or none of several has one.
    """
    configs = config.data_sets()
    if len(configs) == 1:
        return [(config, split) for split in splits]
    existing = [read_meta(find_file(each.data.directory)).get("splits", {}) for each in configs]
    for split in splits:
        if not any(split in has for has in existing):
            raise UserError(f"none of {', '.join(config.data.directories)} has a split {split!r}: correct eval_splits")
    for each, has in zip(configs, existing):
        if not set(has) & set(splits):
            listed = f"it has {', '.join(has)}" if has else "it is no complete data set"
            raise UserError(f"{each.data.directory} has no split of eval_splits ({', '.join(splits)}): {listed}")
    return [(each, split) for each, has in zip(configs, existing) for split in splits if split in has]


def check_objects(config: Config, split: str) -> None:
    """Checks that a split has the masks of all objects, if the configuration uses them. Raises: UserError."""
    directory, meta = check_split(config, split)
    if config.losses.object_loss_weight and f"{split}.objects.mindrecord" not in meta["files"]:
        raise UserError(
            f"{directory} has no masks of all objects, because an earlier version made it: run prepare_data.py again "
            f"with --output {directory}, or set object_loss_weight to 0"
        )
