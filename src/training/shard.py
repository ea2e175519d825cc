"""Which samples of a global batch a rank sees."""
from __future__ import annotations

import numpy as np

from src import devices
from src.errors import UserError


class Shard:
    """This rank's part of every batch.

    With R ranks and A accumulation steps, a batch is A R micro batches of b samples; micro batch m of rank r holds its
    samples (m R + r) b to (m R + r + 1) b. So a batch has the same samples whatever R and A are.

    Attributes:
        size: b.
        first_samples: place in the batch of the first sample of each of this rank's micro batches.

    Raises: UserError where the batch cannot be cut into that many.
    """

    def __init__(self, batch_size: int, accumulation_steps: int):
        ranks = devices.rank_count()
        parts = ranks * accumulation_steps
        if batch_size % parts:
            raise UserError(f"batch_size {batch_size}, that of all devices together, cannot be divided by {ranks} "
                            f"devices x {accumulation_steps} accumulation_steps: give a multiple of {parts}")
        self.size = batch_size // parts
        self.first_samples = [(micro * ranks + devices.rank()) * self.size for micro in range(accumulation_steps)]
        self._batch_size = batch_size

    def rows(self, order: np.ndarray) -> np.ndarray:
        """Those of the rows in `order`, the order of whole batches one after another, that this rank sees, in order."""
        batches = order[:len(order) // self._batch_size * self._batch_size].reshape(-1, self._batch_size)
        places = np.add.outer(self.first_samples, np.arange(self.size)).ravel()
        return batches[:, places].ravel()
