"""Evaluation of a model over whole splits."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Union

import numpy as np
from mindspore import Tensor
from scipy.special import expit
from tqdm import tqdm

from coupalign import devices
from coupalign.checkpoints.trained import trained_model
from coupalign.config import Config, EvaluationConfig
from coupalign.data.dataset import Split
from coupalign.data.prepared import evaluated_splits
from coupalign.data.transform import probability_at
from coupalign.errors import UserError
from coupalign.evaluation.metric import intersection_and_union
from coupalign.evaluation.result import COUNTS, SAMPLE_COLUMNS, Result
from coupalign.files import find_file, sha256

WORDS = ("token_ids", "token_mask")
ModelOutputs = Union[
    Tensor, tuple[Tensor, Tensor]
]  # logits (B, S, S), and of a target (B,) if the model has `existence`
Forward = Callable[[Tensor, Tensor, Tensor], ModelOutputs]
OnSample = Callable[[int, dict[str, np.ndarray], np.ndarray], None]


def evaluate(
    config: Config, checkpoint: str | os.PathLike, splits: Sequence[str], progress: bool = True
) -> Iterator[Result]:
    """Evaluates a checkpoint on `splits` with all baselines and yields each result when it is complete.

    Of several data sets, each gives a result for those of `splits` that it has.

    Several ranks share the work, and each yields the whole result.

    Raises: UserError if a split or the checkpoint is missing or does not fit, before the first result.
    """
    opened = [(each, name, Split(each, name)) for each, name in evaluated_splits(config, splits)]
    model = trained_model(config, checkpoint)
    source = {"file": str(checkpoint), "sha256": sha256(find_file(checkpoint))}

    def results() -> Iterator[Result]:
        for each, name, split in opened:
            result = evaluate_split(model, each, split, name, config.evaluation.eval_limit, progress, shuffled=True)
            result.checkpoint = source
            yield result

    return results()


def evaluate_split(
    forward: Forward,
    config: Config,
    split: Split,
    name: str,
    limit: int = 0,
    progress: bool = True,
    shuffled: bool = False,
    on_batch_end: Callable[[], None] | None = None,
    on_sample: OnSample | None = None,
) -> Result:
    """Evaluates a model in memory on one split.

    Ranks take batches in turn. Batches are the same on any number of ranks, so the results are the same to the pixel,
    and each sample counts once.

    Args:
        forward: Function (image, token_ids, token_mask) -> ModelOutputs, such as a model in evaluation mode. Its batches
            always have ``eval_batch_size`` samples.
        limit: Maximum number of samples, the first ones; 0 for all.
        progress: Whether to show a progress bar on stderr.
        shuffled: Whether to evaluate each image with the expression of another one too, which doubles the time.
        on_batch_end: Called between batches, equally often on every rank.
        on_sample: Called with each sample of this rank: its row of the split, its entry of ``Split.samples`` and its
            probability map (S, S), 0 everywhere if the model says that nothing fits.

    Returns: The result of the whole split, the same on every rank.

    Raises: UserError if the split is empty, or the model's output is not finite.
    """
    size = config.evaluation.eval_batch_size
    indices = evaluated_rows(config, split, name, limit)
    columns = {column: split.records[column][indices] for column in (*SAMPLE_COLUMNS, "baselines", *WORDS)}
    other = derangement(columns["image_id"], config.run.seed) if shuffled else None
    # A sample's counts are 0 on all ranks but its own.
    totals = np.zeros((3, len(indices), len(COUNTS)), np.int64)
    counts, mask_counts, shuffled_counts = totals
    settings, judges = config.evaluation, config.model.existence
    positions = np.arange(len(indices))
    mine = positions[positions // size % devices.rank_count() == devices.rank()]
    full_rounds = len(indices) // (size * devices.rank_count())  # batches that every rank has
    seconds = 0.5 if sys.stderr.isatty() else 30
    with tqdm(total=len(mine), desc=name, unit="sample", disable=not progress, mininterval=seconds) as bar:
        read = split.samples(indices[mine], config.data.num_workers) if len(mine) else ()
        for number, samples in enumerate(_batches(read, size)):
            rows = mine[number * size :][: len(samples)]
            maps, exists = _predict(forward, samples, [columns[name][rows] for name in WORDS], size)
            predicted = answers(settings, maps, exists)
            counts[rows] = [pixel_counts(settings, *pair) for pair in zip(predicted, samples)]
            if judges:
                mask_counts[rows] = [pixel_counts(settings, *pair) for pair in zip(maps, samples)]
            if on_sample:
                for sample in zip(indices[rows], samples, predicted):
                    on_sample(*sample)
            if other is not None:
                maps, exists = _predict(forward, samples, [columns[name][other[rows]] for name in WORDS], size)
                predicted = answers(settings, maps, exists)
                shuffled_counts[rows] = [pixel_counts(settings, *pair) for pair in zip(predicted, samples)]
            bar.update(len(samples))
            if on_batch_end and number < full_rounds:
                on_batch_end()
    counts, mask_counts, shuffled_counts = devices.all_reduce_sum(totals)
    return Result(
        config,
        name,
        columns,
        counts,
        shuffled_counts if other is not None else None,
        mask_counts if judges else None,
    )


def evaluated_rows(config: Config, split: Split, name: str, limit: int) -> np.ndarray:
    """Rows of a split that are scored, ascending; see ``evaluate_split`` for arguments and errors."""
    rows = split.indices(config.evaluation.sentences, config.run.seed)
    rows = rows[:limit] if limit else rows
    if not len(rows):
        raise UserError(
            f"split {name} of {config.data.directory} has no samples: prepare it again with prepare_data.py"
        )
    return rows


def derangement(image_ids: np.ndarray, seed: int) -> np.ndarray | None:
    """A random permutation p, (n,), with ``image_ids[p[k]] != image_ids[k]`` for all k; None if there is none."""
    _, groups, sizes = np.unique(image_ids, return_inverse=True, return_counts=True)
    largest = sizes.max()
    if 2 * largest > len(image_ids):
        return None
    random = np.random.default_rng(seed)
    # If the samples of an image are adjacent, rotating by the size of the largest group leaves every group.
    order = np.lexsort((random.permutation(len(image_ids)), random.permutation(len(sizes))[groups]))
    rotated = np.empty_like(order)
    rotated[order] = np.roll(order, -largest)
    return rotated


def probabilities(outputs: ModelOutputs) -> tuple[np.ndarray, np.ndarray]:
    """Sigmoid of a model's outputs, float32. Raises UserError if a logit is not finite.

    Returns: maps (B, S, S); of a target (B,), 1 for a model without ``existence``.
    """
    logits = [each.asnumpy().astype(np.float32) for each in (outputs if isinstance(outputs, tuple) else (outputs,))]
    if not all(np.isfinite(each).all() for each in logits):
        raise UserError("the model's output is not finite because its training diverged: use another checkpoint")
    maps, *exists = map(expit, logits)
    return maps, exists[0] if exists else np.ones(len(maps), np.float32)


def answers(settings: EvaluationConfig, probability: np.ndarray, exists: np.ndarray) -> np.ndarray:
    """Probability maps (B, S, S) of which those with a probability of a target (B,) below the threshold become 0."""
    return probability * (exists >= settings.existence_threshold)[:, None, None]


def pixel_counts(settings: EvaluationConfig, probability: np.ndarray, sample: dict[str, np.ndarray]) -> tuple[int, ...]:
    """COUNTS of a probability map (S, S) and the target of its entry of ``Split.samples``.

    Masks are compared at the size of ``eval_resolution``. Whether there is a target is decided at the image's own size.
    """
    target = sample["target" if settings.eval_resolution == "original" else "input_target"]
    if settings.eval_resolution == "original":
        probability = probability_at(probability, *target.shape)
    mask = probability > settings.threshold
    intersection, union = intersection_and_union(mask, target)
    return int(intersection[0]), int(union[0]), int(mask.any()), int(sample["target"].any())


def _predict(
    forward: Forward, samples: list[dict], words: list[np.ndarray], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the samples' images with the given words, in a batch of `size`.

    Returns: maps (len(samples), S, S); of a target (len(samples),), 1 for a model without this output.
    """
    images = np.stack([sample["image"] for sample in samples])
    maps, exists = probabilities(forward(*(Tensor(_padded(column, size)) for column in (images, *words))))
    return maps[: len(samples)], exists[: len(samples)]


def _batches(samples: Iterable[dict], size: int) -> Iterator[list[dict]]:
    """Lists of `size` samples; the last may be shorter."""
    batch = []
    for sample in samples:  # not islice, because MindSpore's iterators fail when asked again after their end
        batch.append(sample)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _padded(rows: Sequence[np.ndarray] | np.ndarray, size: int) -> np.ndarray:
    """One array of `size` rows, in which the last row is repeated. Another size would compile the model again."""
    return np.stack([*rows, *[rows[-1]] * (size - len(rows))])
