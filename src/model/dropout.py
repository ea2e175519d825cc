"""Dropout and stochastic depth without a state: what is dropped follows from the step, and from nothing before it."""
from __future__ import annotations

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

LOW = 0xFFFF


class Dropout(nn.Cell):
    """Sets elements to 0 with probability ``rate`` in training, and scales the others by 1 / (1 - rate).

    MindSpore's own operator keeps a random state inside its kernel that can be neither read nor set, so a training
    that is stopped could not go on with the same numbers. Here the mask is a hash of the step's draw, this layer, the
    sample's place in the global batch and the element: it is the same whoever computes it, at whatever time and
    on however many devices.

    Args:
        rate: from 0 to below 1, brought to a multiple of 2^-16.

    Inputs: x (B, …). Outputs: the same shape and precision.

    Raises: RuntimeError in training where rate is above 0 and ``connect_dropout`` was not called.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.dropped = round(rate * 2 ** 16)
        self.scale = 2 ** 16 / (2 ** 16 - self.dropped)
        self.connected = False

    def connect(self, draws: Parameter, layer: int) -> None:
        """See ``connect_dropout``. `layer` tells this one from others."""
        self.draws = draws
        self.for_samples, self.for_places = np.random.default_rng(layer).integers(2 ** 30, size=2).tolist()
        self.connected = True

    def construct(self, x: Tensor) -> Tensor:
        if self.dropped == 0 or not self.training:
            return x
        if not self.connected:
            raise RuntimeError("Dropout has no draws: call connect_dropout before training")
        batch = x.shape[0]
        size = x.size // batch
        draw, first = self.draws[0], self.draws[1]
        samples = hashed(ops.bitwise_xor(ops.bitwise_xor(indices(batch) + first, draw), self.for_samples))
        places = hashed(ops.bitwise_xor(ops.bitwise_xor(indices(size), draw), self.for_places))
        bits = ops.bitwise_xor(samples.reshape(batch, 1), places.reshape(1, size))
        # An exclusive or alone would tie four elements of two samples together; two more rounds free them. The
        # last factor is 1 above a multiple of 256, which makes the 16 bits taken uniform.
        bits = ops.bitwise_right_shift(multiplied(scrambled(bits, 0x7ED5, 11), 0x6B01), 8)
        kept = ops.bitwise_and(bits, LOW) >= self.dropped
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
        return x * self.dropout(ops.ones((x.shape[0], 1, 1), x.dtype))


def connect_dropout(cell: nn.Cell) -> Parameter:
    """Lets every Dropout in `cell` take its masks from one Parameter, which is returned; ``draw`` makes its values."""
    draws = Parameter(Tensor([0, 0], mindspore.int32), name="draws", requires_grad=False)
    layers = [each for _, each in cell.cells_and_names() if isinstance(each, Dropout)]
    for number, layer in enumerate(layers):
        layer.connect(draws, number)
    return draws


def draw(seed: int, step: int, first_sample: int = 0) -> Tensor:
    """What ``connect_dropout``'s Parameter has to hold for a step: (2,) int32.

    Args:
        seed: of the training.
        step: number of the update.
        first_sample: place in the global batch of the first sample that this device sees.
    """
    number = np.random.default_rng([seed, step]).integers(2 ** 30)
    return Tensor([number, first_sample], mindspore.int32)


def indices(count: int) -> Tensor:
    """0 … count - 1, int32."""
    return Tensor(np.arange(count), mindspore.int32)


def hashed(x: Tensor) -> Tensor:
    """Integers from 0 to below 2^31 as others of that range that look random, int32."""
    x = scrambled(scrambled(x, 0x7ED5, 15), 0x6B43, 15)
    return scrambled(scrambled(x, 0x7FEB, 15), 0x5BD1, 15)


def scrambled(x: Tensor, factor: int, shift: int) -> Tensor:
    """One round: ``multiplied``, then the higher bits onto the lower ones."""
    x = multiplied(x, factor)
    return ops.bitwise_xor(x, ops.bitwise_right_shift(x, shift))


def multiplied(x: Tensor, factor: int) -> Tensor:
    """x times `factor` (below 2^15) in Marsaglia's multiply-with-carry, which never leaves 31 bits: what a device
    does when integers overflow does not matter."""
    return ops.bitwise_and(x, LOW) * factor + ops.bitwise_right_shift(x, 16)
