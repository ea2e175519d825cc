"""Dropout and stochastic depth without a state: what is dropped follows from the step, and from nothing before it."""

from __future__ import annotations

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

LOW = 0xFFFF


class Dropout(nn.Cell):
    """Sets elements to 0 with probability ``rate`` in training, and scales the others by 1 / (1 - rate).

    MindSpore's own operator keeps a random state inside its kernel that can be neither read nor set, so a training
    that is stopped could not go on with the same numbers. Here the mask is a hash of a number drawn for the step, the
    layer and the sample's place in the global batch, and of the element: it is the same whoever computes it, at
    whatever time and on however many devices.

    Args:
        rate: from 0 to below 1, brought to a multiple of 2^-16.

    Inputs: x (B, …). Outputs: the same shape and precision.

    Raises: RuntimeError in training where rate is above 0 and ``connect_dropout`` was not called.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.dropped = round(rate * 2**16)
        self.scale = 2**16 / (2**16 - self.dropped)
        self.connected = False

    def connect(self, draws: Parameter, layer: int) -> None:
        """See ``connect_dropout``. `layer` is its column of `draws`."""
        self.draws = draws
        self.layer = layer
        self.connected = True

    def construct(self, x: Tensor) -> Tensor:
        if self.dropped == 0 or not self.training:
            return x
        if not self.connected:
            raise RuntimeError("Dropout has no draws: call connect_dropout before training")
        batch = x.shape[0]
        bits = ops.bitwise_xor(self.draws[:batch, self.layer : self.layer + 1], places(x.size // batch))
        # An exclusive or alone would tie four elements of two samples together; two more rounds free them. The
        # last factor is 1 above a multiple of 256, which makes the 16 bits taken uniform.
        bits = multiplied(bits, 0x7ED5)
        bits = multiplied(ops.bitwise_xor(bits, ops.bitwise_right_shift(bits, 11)), 0x6B01)
        kept = ops.bitwise_and(ops.bitwise_right_shift(bits, 8), LOW) >= self.dropped
        return x * (kept.astype(x.dtype) * self.scale).reshape(x.shape)


class DropPath(nn.Cell):
    """Drops a whole residual branch of a sample with probability ``rate`` in training (stochastic depth).

    Inputs: x (B, L, C). Outputs: the same shape, scaled by 1 / (1 - rate) where it is kept.
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
        """What the samples of a batch are multiplied by in training: (batch,) of `dtype`."""
        return self.dropout(ops.ones((batch, 1), dtype)).reshape(-1)


def connect_dropout(cell: nn.Cell, batch: int) -> Parameter:
    """Lets every Dropout in `cell` take its masks from one Parameter, which is returned; ``draw`` makes its values.

    Args:
        batch: samples at most that the cell will see at once in training.
    """
    layers = [each for _, each in cell.cells_and_names() if isinstance(each, Dropout)]
    draws = Parameter(Tensor(np.zeros((batch, max(len(layers), 1)), np.int32)), name="draws", requires_grad=False)
    for number, layer in enumerate(layers):
        layer.connect(draws, number)
    return draws


def draw(seed: int, step: int, draws: Parameter, first_sample: int = 0) -> Tensor:
    """What `draws`, from ``connect_dropout``, has to hold for a step: a number for each sample and layer, int32.

    Args:
        seed: of the training.
        step: number of the update.
        first_sample: place in the global batch of the first sample that the cell sees.
    """
    batch, layers = draws.shape
    numbers = np.random.default_rng([seed, step]).integers(2**31, size=(first_sample + batch, layers), dtype=np.int32)
    return Tensor(numbers[first_sample:])


@ops.constexpr
def places(count: int) -> Tensor:
    """A fixed random number for each of `count` elements of a sample: (1, count) int32."""
    return Tensor(np.random.default_rng(0).integers(2**31, size=(1, count), dtype=np.int32))


def multiplied(x: Tensor, factor: int) -> Tensor:
    """x times `factor` (below 2^15) in Marsaglia's multiply-with-carry, which never leaves 31 bits: what a device
    does when integers overflow does not matter."""
    return ops.bitwise_and(x, LOW) * factor + ops.bitwise_right_shift(x, 16)
