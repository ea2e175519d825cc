"""All platform-specific code: the device, its settings, and communication between ranks.

``msrun`` starts one process (a rank) per device and describes the job in environment variables. Without ``msrun`` there
is one process, rank 0 of 1, and no communication. Collectives use HCCL on Ascend and NCCL on GPU. On the CPU MindSpore
has its own, which only add floats; the functions below use nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, communication, nn, ops
from mindspore.amp import all_finite

from coupalign.errors import UserError

if TYPE_CHECKING:
    from coupalign.config import RunConfig

_TILE_SCORES = 2**26  # scores of a tile of the contrastive loss on GPU and Ascend, 268 MB
_MOST_TILES = 16  # most tiles there; if they need more scores, tiles are larger: 321 MB for batch 16 at 448 pixels
_ranks = (0, 1)  # (this rank, number of ranks), set once by _join_ranks


def set_up(run: RunConfig) -> None:
    """Selects graph mode and the device, joins the other ranks and sets all seeds, before the first Tensor is made.

    Raises: UserError if the device is not available, or not all ranks arrive in time.
    """
    use_device(run)
    _join_ranks(run.device_target)
    mindspore.set_seed(run.seed)
    np.random.seed(run.seed)


def use_device(run: RunConfig) -> None:
    """Selects graph mode, the device and its settings, and nothing else, as a library may. Raises: UserError."""
    # On machines with AVX-512 oneDNN runs 3x3 convolutions with a reference kernel, some fifty times slower.
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
    _select_device(run.device_target)
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    if run.device_target == "CPU":
        return
    mindspore.set_context(jit_config={"jit_level": run.jit_level})
    # Convolutions of float32 would by default be computed with 11 bits (HF32 on Ascend, TF32 on GPU).
    if run.device_target == "Ascend":
        mindspore.device_context.ascend.op_precision.matmul_allow_hf32(False)
        mindspore.device_context.ascend.op_precision.conv_allow_hf32(False)
    else:
        mindspore.device_context.gpu.op_precision.matmul_allow_tf32(False)
        mindspore.device_context.gpu.op_precision.conv_allow_tf32(False)
        # At the default level, MindSpore 2.9 overwrites constants in the branch of the update: training diverges.
        mindspore.set_context(memory_optimize_level="O1")


def on_cpu() -> bool:
    """Whether the selected device is the CPU."""
    return mindspore.get_context("device_target") == "CPU"


def rank() -> int:
    """Number of this process, from 0."""
    return _ranks[0]


def rank_count() -> int:
    """Number of processes that work together."""
    return _ranks[1]


def all_reduce_sum(values: np.ndarray) -> np.ndarray:
    """The sum over all ranks of float32, or of int64 exactly. Every rank must call this with the same shape."""
    if rank_count() == 1:
        return values
    if values.dtype == np.float32:
        return _all_reduce()(Tensor(values)).asnumpy()
    # Float32 adds the eight bytes of each integer exactly.
    digits = np.ascontiguousarray(values, "<i8").reshape(-1, 1).view(np.uint8)
    sums = _all_reduce()(Tensor(digits.astype(np.float32))).asnumpy().astype(np.int64)
    return (sums << np.arange(0, 64, 8)).sum(1).reshape(values.shape)


def all_reduce_max(number: int) -> int:
    """Returns the largest of the ranks' integers. Every rank must call this."""
    numbers = np.zeros(rank_count(), np.int64)
    numbers[rank()] = number
    return int(all_reduce_sum(numbers).max())


def barrier() -> None:
    """Waits until every rank has called this."""
    all_reduce_max(0)


class GradientMean(nn.Cell):
    """Averages gradients over the ranks.

    On GPU and Ascend MindSpore fuses the all-reduces of many tensors. On the CPU each gradient would be a message of its
    own, hundreds per step, so the gradients are concatenated first. This takes twice their memory for a moment.

    Args:
        parameters: Parameters of the gradients, in their order.

    Inputs: a tuple of gradients. Outputs: a tuple of their means, the same on every rank.
    """

    def __init__(self, parameters: Sequence[Parameter]):
        super().__init__(auto_prefix=False)
        self.ranks = rank_count()
        self.concatenates = on_cpu()
        self.mean = nn.DistributedGradReducer(parameters, mean=True)
        self.sum, self.concat, self.on_each = ops.AllReduce(), ops.Concat(), ops.HyperMap()
        self.starts = tuple(int(start) for start in np.cumsum([0, *(each.size for each in parameters)])[:-1])

    def construct(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        if not self.concatenates:
            return self.mean(gradients)
        means = self.sum(self.concat(self.on_each(_flatten, gradients))) / self.ranks
        return self.on_each(ops.partial(_slice_like, means), self.starts, gradients)


class WeightedSum(nn.Cell):
    """Weighted sum over axis 1 or 2 of x (B, M, N). The CPU is faster at a product with one row, devices at a sum.

    Inputs: x (B, M, N); weights (B, M) for axis 1, (B, N) for axis 2. Outputs: (B, N) or (B, M).
    """

    def __init__(self, axis: int):
        super().__init__()
        self.axis = axis
        self.on_cpu = on_cpu()
        self.mm, self.mm_tb = ops.BatchMatMul(), ops.BatchMatMul(transpose_b=True)

    def construct(self, x: Tensor, weights: Tensor) -> Tensor:
        if not self.on_cpu:
            return ops.reduce_sum(x * ops.expand_dims(weights, 3 - self.axis), self.axis)
        row = ops.expand_dims(weights, 1)
        return self.mm(row, x).squeeze(1) if self.axis == 1 else self.mm_tb(x, row).squeeze(2)


def default_tile(batch: int, length: int, on_cpu: bool) -> int:
    """Anchors of a tile of the contrastive loss (``NegativeTerms``) for maps of ``length`` pixels.

    On a CPU small tiles stay in the cache: 256 over the batch, at least 48, but a twelfth of a small map, where the
    referent may be a dozen pixels. On GPU and Ascend the host reads the condition of the loop, so tiles are few and
    large; the gradient holds four arrays of their size. Their products are fast if they are multiples of 16.
    """
    if on_cpu:
        return min(max(256 // batch, 48), -(-length // 12))
    most = -(-length // 2)  # anchors
    tile = max(_TILE_SCORES // (batch * length), -(-most // _MOST_TILES))
    return min(-(-tile // 16) * 16, most)


class SquaredNorm(nn.Cell):
    """Sum of the squares of x, as a vector of one element: a product on the CPU, a sum on devices, as above."""

    def __init__(self):
        super().__init__(auto_prefix=False)
        self.on_cpu = on_cpu()

    def construct(self, x: Tensor) -> Tensor:
        if self.on_cpu:
            return ops.matmul(x.reshape(1, -1), x.reshape(-1, 1)).reshape(1)
        return ops.reduce_sum(x * x).reshape(1)


class AllFinite(nn.Cell):
    """Whether loss and gradients of an update are finite, with the same result on every rank.

    Ascend 910A, and A2 in saturation mode, replace inf by the largest number. There ``all_finite`` reads the device's
    overflow status instead, which covers all that this rank computed since the last call. Since the other ranks cannot
    see it, ranks exchange their results.

    Inputs: a float32 scalar, computed from loss and gradients, that is not finite if one of them is not.
    Outputs: a bool scalar.
    """

    def __init__(self):
        super().__init__(auto_prefix=False)
        self.ranks = rank_count()
        if self.ranks > 1:
            self.sum = ops.AllReduce()

    def construct(self, x: Tensor) -> Tensor:
        finite = all_finite((x,))
        if self.ranks == 1:
            return finite
        return self.sum(finite.astype("float32").reshape(1)).reshape(()) == self.ranks


def _select_device(target: str) -> None:
    current = mindspore.get_context("device_target")
    try:
        if hasattr(mindspore, "set_device"):
            mindspore.set_device(target)
        else:  # MindSpore 2.0, which exports models for Lite 2.0
            mindspore.set_context(device_target=target)
    except (RuntimeError, ValueError) as error:
        if current == target:  # the caller already uses this device, which cannot be selected twice
            return
        lines = str(error).splitlines()
        library = f"libmindspore_{target.lower()}"
        reason = " ".join([lines[0].split(" Please check")[0], *(line for line in lines[1:] if library in line)])
        remedy = "install its driver and libraries (on Ascend, source CANN's set_env.sh), or use --device_target CPU"
        raise UserError(f"device_target {target} is not available: {reason}: {remedy}") from error


def _join_ranks(device_target: str) -> None:
    global _ranks
    if "MS_ROLE" not in os.environ or _ranks != (0, 1):
        return
    if device_target == "CPU":
        # Seconds that a collective waits for a rank that is compiling or writing a checkpoint; the default is 30.
        os.environ.setdefault("MS_NODE_TIMEOUT", "600")
    try:
        communication.init()  # msrun's scheduler returns from this only when all ranks have ended
    except RuntimeError as error:
        count, host, port = (os.environ[name] for name in ("MS_WORKER_NUM", "MS_SCHED_HOST", "MS_SCHED_PORT"))
        reason = f"or one was lost ({str(error).strip().splitlines()[0].split('. ')[0]})"
        remedy = "check that each was started, and their logs"
        raise UserError(f"the {count} ranks did not connect at {host}:{port}, {reason}: {remedy}") from error
    _ranks = communication.get_rank(), communication.get_group_size()


class _AllReduce(nn.Cell):
    def __init__(self):
        super().__init__()
        self.sum = ops.AllReduce()

    def construct(self, x: Tensor) -> Tensor:
        return self.sum(x)


_all_reduce = cache(_AllReduce)


def _flatten(x: Tensor) -> Tensor:
    return x.reshape(-1)


def _slice_like(vector: Tensor, start: int, x: Tensor) -> Tensor:
    return ops.Slice()(vector, (start,), (x.size,)).reshape(x.shape)
