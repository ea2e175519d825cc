"""Order of samples: which rows an epoch sees when, and which of them a rank takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coupalign.config import Config, TrainingConfig
from coupalign.data.dataset import JoinedSplit, Split
from coupalign.devices import rank, rank_count
from coupalign.errors import UserError


def epoch_order(
    settings: TrainingConfig, seed: int, split: Split, epoch: int, weights: Sequence[float] = ()
) -> np.ndarray:
    """Rows of the split in the order in which epoch 0, 1, … sees them.

    Of several data sets, an epoch takes ``round(weight * size)`` rows each, in mixed order. Each data set is read
    in passes, each in an order of its own, and an epoch continues where the one before stopped. So with a weight
    of 0.5 two epochs see each row once.

    Args:
        weights: One per data set of a `JoinedSplit`; empty is 1 for each.

    Raises:
        UserError: The split has no expressions of one of ``train_families``, or a weight gives a data set no rows.
    """
    if not isinstance(split, JoinedSplit):
        return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(_rows(settings, seed, split, epoch))
    taken = []
    for number, (part, start) in enumerate(zip(split.splits, split.starts)):
        size = len(_rows(settings, seed, part, 0))
        count = round((weights[number] if weights else 1) * size)
        if not count:
            problem = (
                f"data_weights is {weights[number]:g} for a data set of {size:,} samples, which gives none to an epoch"
            )
            raise UserError(f"{problem}: give at least {1 / size:.1g}")
        passes = range(epoch * count // size, -(-(epoch + 1) * count // size))
        # The seed has another length than an epoch's, so that they never agree.
        draws = [np.random.Generator(np.random.PCG64([seed, each, number])) for each in passes]
        rows = [draw.permutation(_rows(settings, seed, part, each)) for draw, each in zip(draws, passes)]
        first = epoch * count - passes.start * size
        taken.append(start + np.concatenate([np.zeros(0, np.int64), *rows])[first : first + count])
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(np.concatenate(taken))


def _rows(settings: TrainingConfig, seed: int, split: Split, epoch: int) -> np.ndarray:
    """Rows of one data set in ascending order. Raises: UserError."""
    rows = split.indices(settings.train_sentences, seed + epoch)
    if settings.train_families != ("all",):
        families = split.records["family"]
        unknown = sorted(set(settings.train_families) - set(families))
        if unknown:
            known = ", ".join(sorted(set(families) - {""})) or "no families"
            raise UserError(
                f"train_families has {unknown[0]!r}, but split {settings.train_split} has {known}: name one of these"
            )
        rows = rows[np.isin(families[rows], settings.train_families)]
    return rows


def check_existence(config: Config, split: Split, rows: np.ndarray) -> None:
    """Checks that some rows to train on have no target, if the model has an existence output. Raises: UserError."""
    # The first baseline is the intersection of target and class, which is 0 for an empty target only.
    if config.model.existence and split.records["baselines"][rows, 0].all():
        raise UserError(
            f"existence needs expressions that name nothing, but split {split.name} has none to train on: prepare data "
            "with such expressions (docs/data.md), name their family in train_families, or set existence to false"
        )


def rank_share(order: np.ndarray, micro_batch: int) -> np.ndarray:
    """This rank's part of `order`, a whole number of batches. The ranks take micro batches in turn."""
    return order.reshape(-1, rank_count(), micro_batch)[:, rank()].reshape(-1)


def first_samples(settings: TrainingConfig, micro_batch: int) -> list[int]:
    """Position in the batch of the first sample of each of this rank's micro batches."""
    return [(number * rank_count() + rank()) * micro_batch for number in range(settings.accumulation_steps)]
