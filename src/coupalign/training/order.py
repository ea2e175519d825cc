"""Order of samples: which rows an epoch sees when, and which of them a rank takes."""

from __future__ import annotations

import numpy as np

from coupalign.config import TrainingConfig
from coupalign.data.dataset import Split
from coupalign.devices import rank, rank_count
from coupalign.errors import UserError


def epoch_order(settings: TrainingConfig, seed: int, split: Split, epoch: int) -> np.ndarray:
    """Rows of the split in the order in which epoch 0, 1, … sees them.

    Raises:
        UserError: The split has no expressions of one of ``train_families``.
    """
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
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(rows)


def rank_share(order: np.ndarray, micro_batch: int) -> np.ndarray:
    """This rank's part of `order`, a whole number of batches. The ranks take micro batches in turn."""
    return order.reshape(-1, rank_count(), micro_batch)[:, rank()].reshape(-1)


def first_samples(settings: TrainingConfig, micro_batch: int) -> list[int]:
    """Position in the batch of the first sample of each of this rank's micro batches."""
    return [(number * rank_count() + rank()) * micro_batch for number in range(settings.accumulation_steps)]
