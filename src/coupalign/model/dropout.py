"""Dropout and stochastic depth without hidden state: a mask depends on seed and step only."""

from __future__ import annotations

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

LOW = 0xFFFF


class Dropout(nn.Cell):
    """Sets elements to 0 with probability ``rate`` in training and scales the others by 1 / (1 - rate).

    The operator of MindSpore keeps its random state in a kernel, where it can be neither read nor set, so a resumed
    training would draw other masks. Here the mask is a hash of a number drawn for (seed, step, layer, sample of the
    global batch) and of the element. It is the same on any number of devices and after resuming.

    Args:
        rate: Probability from 0 to below 1, rounded to a multiple of 2^-16.

    Inputs: x (B, …).

    Raises:
        RuntimeError: In training, if rate is above 0 and ``connect_dropout`` was not called.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.dropped = round(rate * 2**16)
        self.scale = 2**16 / (2**16 - self.dropped)
        self.connected = False

    def construct(self, x: Tensor) -> Tensor:
        if self.dropped == 0 or not self.training:
            return x
        if not self.connected:
            raise RuntimeError("Dropout has no draws: call connect_dropout before training")
        batch = x.shape[0]
        bits = ops.bitwise_xor(self.draws[:batch, self.column : self.column + 1], element_hashes(x.size // batch))
        # After an exclusive or alone, masks of two samples would be correlated; two rounds of multiplication remove
        # that. The last factor is 1 above a multiple of 256, so that the 16 bits used are uniform.
        bits = multiply_with_carry(bits, 0x7ED5)
        bits = multiply_with_carry(ops.bitwise_xor(bits, right_shift(bits, 11)), 0x6B01)
        kept = ops.bitwise_and(bits, LOW << 8) >= self.dropped << 8
        return x * (kept.astype(x.dtype) * self.scale).reshape(x.shape)


class DropPath(nn.Cell):
    """Stochastic depth: drops the residual branch x (B, L, C) of a sample with probability ``rate`` in training.

    Kept branches are scaled by 1 / (1 - rate).
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate
        self.dropout = Dropout(rate)

    def construct(self, x: Tensor) -> Tensor:
        if self.rate == 0.0 or not self.training:
            return x
        return x * self.scales(x.shape[0], x.dtype).reshape(-1, 1, 1)

    def scales(self, batch: int, dtype: mindspore.dtype) -> Tensor:
        """Factor of each sample in training, 0 or 1 / (1 - rate): (batch,) of ``dtype``."""
        return self.dropout(ops.ones((batch, 1), dtype)).reshape(-1)


def connect_dropout(cell: nn.Cell, batch: int) -> Parameter:
    """Connects every Dropout in ``cell`` to one Parameter of random numbers, (batch, layers) int32.

    ``batch`` is the largest number of samples of a micro batch. Set the Parameter to ``draw(…)`` before each step.
    """
    layers = [each for _, each in cell.cells_and_names() if isinstance(each, Dropout)]
    draws = Parameter(Tensor(np.zeros((batch, max(len(layers), 1)), np.int32)), name="draws", requires_grad=False)
    for i, layer in enumerate(layers):
        layer.draws, layer.column, layer.connected = draws, i, True
    return draws


def draw(seed: int, step: int, draws: Parameter, first_sample: int = 0) -> Tensor:
    """Random numbers of one step for the Parameter of ``connect_dropout``: (batch, layers) int32.

    ``first_sample`` is the index in the global batch of the first sample of the micro batch.
    """
    batch, layers = draws.shape
    numbers = np.random.default_rng([seed, step]).integers(2**31, size=(first_sample + batch, layers), dtype=np.int32)
    return Tensor(numbers[first_sample:])


@ops.constexpr
def element_hashes(count: int) -> Tensor:
    """A fixed random number for each of ``count`` elements of a sample: (1, count) int32."""
    return Tensor(np.random.default_rng(0).integers(2**31, size=(1, count), dtype=np.int32))


def multiply_with_carry(x: Tensor, factor: int) -> Tensor:
    """One round of Marsaglia's multiply-with-carry, factor below 2^15. Integers stay below 2^31, so none overflow."""
    return ops.bitwise_and(x, LOW) * factor + right_shift(x, 16)


def right_shift(x: Tensor, count: int) -> Tensor:
    """``x >> count`` for int32 from 0 and a count from 7. Both are int32.

    Ascend runs shifts on its AI CPU, which is slow. The 24 bits or fewer that remain are exact in float32.
    """
    high = ops.bitwise_and(x, 2**31 - 2**count).astype("float32")
    return (high * 2.0**-count).astype("int32")
