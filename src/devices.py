"""Ranks: processes with a device each that work on one thing. All that knows how platforms differ is here.

``msrun`` starts the processes and tells them of each other through the environment. Without it there is one, rank 0 of
1, and nothing here communicates. Collectives are HCCL on Ascend, NCCL on GPU, and MindSpore's own on the CPU, which
can only add: so what follows is made of sums alone. MindSpore itself gives each rank of a machine its own device.
"""
from __future__ import annotations

import os

import numpy as np
from mindspore import Tensor, communication, nn, ops

_ranks = (0, 1)  # this rank, and their number; set once by initialise


def initialise() -> None:
    """Joins the other ranks where msrun started this process. To be called before the first Tensor is made."""
    global _ranks
    if "MS_ROLE" in os.environ and _ranks == (0, 1):
        communication.init()
        _ranks = communication.get_rank(), communication.get_group_size()


def rank() -> int:
    """Number of this process, from 0; 0 without msrun."""
    return _ranks[0]


def rank_count() -> int:
    """Processes that work together; 1 without msrun."""
    return _ranks[1]


def total(values: np.ndarray) -> np.ndarray:
    """Sum over the ranks, the same on each of them. All have to call this, with float32 or int32 of the same shape."""
    if rank_count() == 1:
        return values
    return _Sum()(Tensor(values)).asnumpy()


def largest(number: int) -> int:
    """The largest of the ranks' numbers, int32. All have to call this."""
    numbers = np.zeros(rank_count(), np.int32)
    numbers[rank()] = number
    return int(total(numbers).max())


def meet() -> None:
    """Waits for all ranks to call this."""
    largest(0)


class _Sum(nn.Cell):
    """AllReduce in a graph, which all platforms have."""

    def __init__(self):
        super().__init__()
        self.sum = ops.AllReduce()

    def construct(self, x: Tensor) -> Tensor:
        return self.sum(x)
