"""Input files for a program that runs an exported graph, and the score of its output files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from coupalign.config import Config
from coupalign.data.dataset import Split
from coupalign.data.transform import image_transforms
from coupalign.errors import UserError
from coupalign.evaluation.evaluate import answers, evaluated_rows, pixel_counts
from coupalign.evaluation.result import COUNTS, SAMPLE_COLUMNS, Result
from coupalign.files import make_directory
from coupalign.inference.exported import read_description

INPUTS = ("00_image", "01_token_ids", "02_token_mask")


def write_inputs(
    config: Config,
    split_name: str,
    mindir: str | os.PathLike,
    output: str | os.PathLike,
    offset: int = 0,
    limit: int = 0,
) -> int:
    """Writes the inputs of a graph, exported for batch 1, for the samples of a split as raw arrays.

    The directories ``00_image``, ``01_token_ids`` and ``02_token_mask`` of `output` get a file ``<number>.bin`` for
    each sample, numbered in the order of the split: at most `limit` samples from number `offset` (0: all).

    Returns: The number of samples written.

    Raises: UserError if the split, the graph or its description is missing, or they do not fit the configuration.
    """
    description = read_description(mindir)
    batch = description["inputs"][0]["shape"][0]
    for key, found in (("image_size", description["image"]["size"]), ("max_tokens", description["text"]["max_tokens"])):
        if getattr(config.model, key) != found:
            raise UserError(f"{mindir} was exported with {key} {found}: pass the --config of its training")
    if batch != 1:
        raise UserError(f"{mindir} has batch size {batch}: export it with --export_batch_size 1")
    split = Split(config, split_name)
    rows = evaluated_rows(config, split, split_name, config.evaluation.eval_limit)
    rows = rows[offset : offset + limit if limit else None]
    directories = [make_directory(Path(output) / name) for name in INPUTS]
    stale = next((each for directory in directories for each in directory.iterdir()), None)
    if stale:
        raise UserError(f"{stale} exists already: choose another --output, or empty it")
    if description["image"]["normalised"]:
        images = (sample["image"] for sample in split.samples(rows, config.data.num_workers))
    else:
        resize = image_transforms(config.model.image_size)[0]
        images = (resize(picture["image"]) for picture in split.pictures(rows, config.data.num_workers))
    shown = tqdm(images, total=len(rows), desc=split_name, unit="sample")
    for number, (row, image) in enumerate(zip(rows, shown), offset):
        arrays = (image, split.records["token_ids"][row], split.records["token_mask"][row])
        for directory, array in zip(directories, arrays):
            np.ascontiguousarray(array).tofile(directory / f"{number:06d}.bin")
    return len(rows)


def score(
    config: Config, split_name: str, results: str | os.PathLike, counts_file: str | os.PathLike | None = None
) -> Result | None:
    """Scores the probabilities that a program wrote for the files of ``write_inputs``.

    Args:
        results: Directory with ``<number>_0.bin``, (S, S) float32, for each sample; with ``existence`` also
            ``<number>_1.bin``, one float32.
        counts_file: Keeps the counts of pixels (.npy) if the samples are run in parts. Each call adds those of the
            samples in `results`. Without it, `results` must hold all samples.

    Returns: The result; None while `counts_file` lacks samples.

    Raises: UserError if the split or a file is missing, or a file has another size or is not finite.
    """
    split = Split(config, split_name)
    rows = evaluated_rows(config, split, split_name, config.evaluation.eval_limit)
    files = [Path(results) / f"{number:06d}_0.bin" for number in range(len(rows))]
    counts, numbers = np.full((len(rows), len(COUNTS)), -1, np.int64), list(range(len(rows)))
    if counts_file:
        counts = np.load(counts_file) if Path(counts_file).exists() else counts
        numbers = [number for number in numbers if files[number].exists()]
        if not numbers or counts.shape != (len(rows), len(COUNTS)):
            raise UserError(f"{results} has no results for {split_name}, or {counts_file} belongs to another split")
    side = config.model.image_size
    for number, sample in zip(numbers, split.samples(rows[numbers], config.data.num_workers)):
        probability = _values(files[number], side * side, f"probability map of {side} x {side}").reshape(1, side, side)
        if config.model.existence:
            exists = _values(files[number].with_name(f"{number:06d}_1.bin"), 1, "probability of a target")
            probability = answers(config.evaluation, probability, exists)
        counts[number] = pixel_counts(config.evaluation, probability[0], sample)
    if counts_file:
        np.save(counts_file, counts)
    if (counts < 0).any():
        return None
    columns = {column: split.records[column][rows] for column in (*SAMPLE_COLUMNS, "baselines")}
    return Result(config, split_name, columns, counts)


def _values(path: Path, count: int, what: str) -> np.ndarray:
    values = np.fromfile(path, np.float32) if path.is_file() else np.empty(0)
    if values.size != count or not np.isfinite(values).all():
        raise UserError(f"{path} is no {what}: run the program on all files of this split")
    return values
