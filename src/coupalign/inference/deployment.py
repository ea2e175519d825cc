"""A split as files for a program that runs an exported graph, and that program's answers as a result."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from coupalign.config import Config
from coupalign.data.dataset import Split
from coupalign.data.transform import image_transforms
from coupalign.errors import UserError
from coupalign.evaluation.evaluate import compare, evaluated_rows
from coupalign.evaluation.result import SAMPLE_COLUMNS, Result
from coupalign.files import find_file, make_directory

INPUTS = ("00_image", "01_token_ids", "02_token_mask")


def write_inputs(config: Config, split_name: str, mindir: str | os.PathLike, output: str | os.PathLike) -> int:
    """Writes the inputs of a graph for each sample of a split, as it lies in memory, to directories of `output`.

    ``00_image``, ``01_token_ids`` and ``02_token_mask`` hold a file ``<number>.bin`` for each sample, numbered in
    the order of the split.

    Args:
        mindir: exported for batch 1, with its .json beside it.

    Returns: the number of samples.

    Raises: UserError where the split, the graph or its description is missing, or they do not fit the configuration.
    """
    description = read_description(mindir)
    batch = description["inputs"][0]["shape"][0]
    for key, found in (("image_size", description["image"]["size"]), ("max_tokens", description["text"]["max_tokens"])):
        if getattr(config.model, key) != found:
            raise UserError(
                f"{mindir} was exported with {key} {found}, the configuration says {getattr(config.model, key)}: "
                "pass the --config of its training"
            )
    if batch != 1:
        raise UserError(f"{mindir} takes {batch} images at a time: export it with --export_batch_size 1")
    split = Split(config, split_name)
    rows = evaluated_rows(config, split, split_name, config.evaluation.eval_limit)
    directories = [make_directory(Path(output) / name) for name in INPUTS]
    stale = next((each for directory in directories for each in directory.iterdir()), None)
    if stale:
        raise UserError(f"{stale} is in the way: choose another --output, or empty it")
    if description["image"]["normalised"]:
        images = (sample["image"] for sample in split.samples(rows, config.data.num_workers))
    else:
        resize = image_transforms(config.model.image_size)[0]
        images = (resize(picture["image"]) for picture in split.pictures(rows, config.data.num_workers))
    for number, (row, image) in enumerate(zip(rows, tqdm(images, total=len(rows), desc=split_name, unit="sample"))):
        arrays = (image, split.records["token_ids"][row], split.records["token_mask"][row])
        for directory, array in zip(directories, arrays):
            np.ascontiguousarray(array).tofile(directory / f"{number:06d}.bin")
    return len(rows)


def score(config: Config, split_name: str, results: str | os.PathLike) -> Result:
    """The result of the probabilities that a program wrote for the files of ``write_inputs``.

    Args:
        results: directory with ``<number>_0.bin``, (S, S) float32, for each sample.

    Raises: UserError where the split or a file is missing, or a file has another size or is not finite.
    """
    split = Split(config, split_name)
    rows = evaluated_rows(config, split, split_name, config.evaluation.eval_limit)
    counts = np.zeros((len(rows), 2), np.int64)
    for number, sample in enumerate(split.samples(rows, config.data.num_workers)):
        counts[number] = compare(
            config, _probability(Path(results) / f"{number:06d}_0.bin", config.model.image_size), sample
        )
    columns = {column: split.records[column][rows] for column in (*SAMPLE_COLUMNS, "baselines")}
    return Result(config, split_name, columns, counts)


def read_description(mindir: str | os.PathLike) -> dict[str, Any]:
    """What export.py wrote beside a graph. Raises: UserError where it is missing or broken."""
    path = find_file(mindir).with_suffix(".json")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        return {key: description[key] for key in ("image", "text", "inputs", "threshold")}
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): export.py writes it beside the .mindir") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not describe a graph: run export.py again") from error


def _probability(path: Path, size: int) -> np.ndarray:
    try:
        values = np.fromfile(path, np.float32)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): was every sample run?") from error
    if values.size != size * size or not np.isfinite(values).all():
        raise UserError(f"{path} is no probability map of {size} x {size}: run the program on this split's files")
    return values.reshape(size, size)
