"""Evaluation of a model over whole splits."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from mindspore import Tensor
from scipy.special import expit
from tqdm import tqdm

from coupalign import devices
from coupalign.checkpoints.loading import load_checkpoint
from coupalign.config import Config
from coupalign.data.dataset import Split
from coupalign.data.transform import probability_at
from coupalign.errors import UserError
from coupalign.evaluation.metric import intersection_and_union
from coupalign.evaluation.result import SAMPLE_COLUMNS, Result
from coupalign.files import find_file, sha256
from coupalign.kernels import use_kernels
from coupalign.model import build_model

WORDS = ("token_ids", "token_mask")
Forward = Callable[[Tensor, Tensor, Tensor], Tensor]
Show = Callable[[int, dict[str, np.ndarray], np.ndarray], None]


def evaluate(
    config: Config, checkpoint: str | os.PathLike, splits: Sequence[str], progress: bool = True
) -> Iterator[Result]:
    """Evaluates a checkpoint on `splits`, with all baselines, and gives each result as soon as it is there.

    Several ranks share the work, and each is given the whole result.

    Raises: UserError, before the first is asked for, where a split or the checkpoint is missing or does not fit.
    """
    opened = [Split(config, split) for split in splits]
    model = use_kernels(build_model(config), config)
    load_checkpoint(checkpoint, model)
    model.set_train(False)
    source = {"file": str(checkpoint), "sha256": sha256(find_file(checkpoint))}

    def results() -> Iterator[Result]:
        for name, split in zip(splits, opened):
            result = evaluate_split(model, config, split, name, config.evaluation.eval_limit, progress, shuffled=True)
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
    between: Callable[[], None] | None = None,
    show: Show | None = None,
) -> Result:
    """Evaluates a model in memory on one split.

    Ranks take the batches in turn. Each batch holds the samples that it holds on one device, so pixels and all that
    follows from them are the same on any number of ranks.

    Args:
        forward: (image, token_ids, token_mask) -> logits, as a model in evaluation mode; always called with batches
            of ``eval_batch_size``.
        split: opened split, and its `name`.
        limit: samples at most, the first ones; 0 is all.
        progress: show a bar on stderr.
        shuffled: also evaluate each image with the expression of another, which takes as long again.
        between: called between batches, equally often on every rank.
        show: is given each sample of this rank: its row of the split, what ``Split.samples`` has of it, its probability
            (S, S).

    Returns: the result of the whole split, the same on every rank.

    Raises: UserError where the split has no samples, or the model's output is not finite.
    """
    indices = evaluated_rows(config, split, name, limit)
    columns = {column: split.records[column][indices] for column in (*SAMPLE_COLUMNS, "baselines", *WORDS)}
    other = derangement(columns["image_id"], config.run.seed) if shuffled else None
    counts = np.zeros((len(indices), 2), np.int64)
    shuffled_counts = np.zeros_like(counts)
    mine = _share(len(indices), config.evaluation.eval_batch_size)
    equally_often = len(indices) // (config.evaluation.eval_batch_size * devices.rank_count())
    bar = tqdm(
        total=len(mine), desc=name, unit="sample", disable=not progress, mininterval=0.5 if sys.stderr.isatty() else 30
    )
    with bar:
        read = split.samples(indices[mine], config.data.num_workers) if len(mine) else ()
        for number, samples in enumerate(_batches(read, config.evaluation.eval_batch_size)):
            rows = mine[number * config.evaluation.eval_batch_size :][: len(samples)]
            images = _padded([sample["image"] for sample in samples], config.evaluation.eval_batch_size)
            for into, words in ((counts, np.arange(len(indices))), (shuffled_counts, other)):
                if words is None:
                    continue
                token_ids, token_mask = (
                    _padded(columns[column][words[rows]], config.evaluation.eval_batch_size) for column in WORDS
                )
                logits = forward(Tensor(images), Tensor(token_ids), Tensor(token_mask)).asnumpy()
                masks = probabilities(logits[: len(samples)])
                into[rows] = [compare(config, *pair) for pair in zip(masks, samples)]
                if show and into is counts:
                    for each in zip(indices[rows], samples, masks):
                        show(*each)
            bar.update(len(samples))
            if between and number < equally_often:
                between()
    # Where one rank has counts the others have 0.
    counts, shuffled_counts = (devices.all_reduce_sum(each) for each in (counts, shuffled_counts))
    return Result(config, name, columns, counts, shuffled_counts if other is not None else None)


def evaluated_rows(config: Config, split: Split, name: str, limit: int) -> np.ndarray:
    """Numbers of the rows of a split that are scored, ascending; arguments and errors as of ``evaluate_split``."""
    rows = split.indices(config.evaluation.sentences, config.run.seed)
    rows = rows[:limit] if limit else rows
    if not len(rows):
        raise UserError(f"split {name} of {config.data.data_dir} has no samples: make it again with prepare_data.py")
    return rows


def derangement(image_ids: np.ndarray, seed: int) -> np.ndarray | None:
    """A random order of the samples in which none meets a sample of its own image; None where there is none.

    Args:
        image_ids: (n,) the image of each sample.

    Returns: (n,) a permutation p with ``image_ids[p[k]] != image_ids[k]`` for all k.
    """
    _, groups, sizes = np.unique(image_ids, return_inverse=True, return_counts=True)
    largest = sizes.max()
    if 2 * largest > len(image_ids):
        return None
    random = np.random.default_rng(seed)
    # With the samples of an image side by side, a turn by the largest image's number leaves every image.
    order = np.lexsort((random.permutation(len(image_ids)), random.permutation(len(sizes))[groups]))
    turned = np.empty_like(order)
    turned[order] = np.roll(order, -largest)
    return turned


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Sigmoid of a model's logits, float32. Raises UserError if a logit is not finite."""
    if not np.isfinite(logits).all():
        raise UserError("the model's output is not finite because its training diverged: use another checkpoint")
    return expit(logits.astype(np.float32))


def compare(config: Config, probability: np.ndarray, sample: dict[str, np.ndarray]) -> tuple[int, int]:
    target = sample["target" if config.evaluation.eval_resolution == "original" else "input_target"]
    if config.evaluation.eval_resolution == "original":
        probability = probability_at(probability, *target.shape)
    intersection, union = intersection_and_union(probability > config.evaluation.threshold, target)
    return int(intersection[0]), int(union[0])


def _share(samples: int, size: int) -> np.ndarray:
    """Which of `samples` samples, in batches of `size` that the ranks take in turn, are this rank's."""
    numbers = np.arange(samples)
    return numbers[numbers // size % devices.rank_count() == devices.rank()]


def _batches(samples: Iterable[dict], size: int) -> Iterator[list[dict]]:
    """Lists of `size` samples, the last one shorter."""
    batch = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _padded(rows: Sequence[np.ndarray] | np.ndarray, size: int) -> np.ndarray:
    """`rows` as one array of `size` rows: a batch of another size would be compiled anew. The last row is repeated."""
    return np.stack([*rows, *[rows[-1]] * (size - len(rows))])
