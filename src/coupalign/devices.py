"""Ranks: processes with a device each that work on one thing. All that knows how platforms differ is here.

``msrun`` starts the processes and tells them of each other through the environment. Without it there is one, rank 0 of
1, and nothing here communicates. MindSpore gives each rank of a machine its own device. Collectives are HCCL on Ascend
and NCCL on GPU. On the CPU they are MindSpore's own, which only add, and only floats: so what follows is made of that.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, communication, nn, ops

from coupalign.config import Config
from coupalign.errors import UserError

_ranks = (0, 1)  # this rank, and their number; set once by initialise


def initialise(config: Config) -> None:
    """Joins the other ranks where msrun started this process. To be called before the first Tensor is made.

    Raises: UserError where they do not all arrive in time.
    """
    global _ranks
    if "MS_ROLE" in os.environ and _ranks == (0, 1):
        if config.run.device_target == "CPU":
            # Seconds that a sum waits for a rank that is still compiling, or writing a checkpoint. 30 without this.
            os.environ.setdefault("MS_NODE_TIMEOUT", "600")
        try:
            communication.init()  # msrun's scheduler stays in there until all ranks have ended
        except RuntimeError as error:
            count, host, port = (os.environ[name] for name in ("MS_WORKER_NUM", "MS_SCHED_HOST", "MS_SCHED_PORT"))
            reason = str(error).strip().splitlines()[0].split(". ")[0]
            raise UserError(
                f"the {count} ranks did not meet at {host}:{port}, or one was lost: see that each was "
                f"started, and the logs of the others ({reason})"
            ) from error
        _ranks = communication.get_rank(), communication.get_group_size()


def rank() -> int:
    """Number of this process, from 0; 0 without msrun."""
    return _ranks[0]


def rank_count() -> int:
    """Processes that work together; 1 without msrun."""
    return _ranks[1]


def total(values: np.ndarray) -> np.ndarray:
    """Sum over the ranks, the same on each of them. All have to call this, with arrays of one shape.

    Args:
        values: float32, added as such; or int64, exact.
    """
    if rank_count() == 1:
        return values
    if values.dtype == np.float32:
        return _sum()(Tensor(values)).asnumpy()
    # Floats hold the sums of the eight bytes of integers exactly.
    digits = np.ascontiguousarray(values, "<i8").reshape(-1, 1).view(np.uint8)
    sums = _sum()(Tensor(digits.astype(np.float32))).asnumpy().astype(np.int64)
    return (sums << np.arange(0, 64, 8)).sum(1).reshape(values.shape)


def largest(number: int) -> int:
    """The largest of the ranks' integers. All have to call this."""
    numbers = np.zeros(rank_count(), np.int64)
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


@cache
def _sum() -> _Sum:
    return _Sum()


class GradientMean(nn.Cell):
    """Means over the ranks. On GPU and Ascend MindSpore joins the sums of many tensors itself, on the CPU it does not.

    There each would be a message of its own, hundreds in a step; so they are added as one vector, which for a while
    takes twice the gradients' memory more.

    Args:
        parameters: whose gradients will come.

    Inputs: the gradients, a tuple. Outputs: their means, the same on each rank.
    """

    def __init__(self, parameters: Sequence[Parameter]):
        super().__init__(auto_prefix=False)
        self.ranks = rank_count()
        self.joins = mindspore.get_context("device_target") == "CPU"
        self.mean = nn.DistributedGradReducer(parameters, mean=True)
        self.sum, self.concat, self.on_each = ops.AllReduce(), ops.Concat(), ops.HyperMap()
        self.starts = tuple(int(each) for each in np.cumsum([0, *(each.size for each in parameters)])[:-1])

    def construct(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        if not self.joins:
            return self.mean(gradients)
        joined = self.sum(self.concat(self.on_each(_flat, gradients))) / self.ranks
        return self.on_each(ops.partial(_part, joined), self.starts, gradients)


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1)


def _part(joined: Tensor, start: int, x: Tensor) -> Tensor:
    """What begins at `start` in a vector, in the shape of x."""
    return ops.Slice()(joined, (start,), (x.size,)).reshape(x.shape)
