"""Operators of the model written with others, which MindSpore Lite 2.0 computes rightly and fast on a CPU."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops

from coupalign.model.layers import Gelu


class PlainNorm(nn.Cell):
    """What an ``nn.LayerNorm`` over the last axis computes, by matrix products.

    MindSpore Lite 2.0 leaves rows out when it runs its own LayerNorm on several threads of a CPU. The means are
    products with a column of 1 / n because it would find the operator again in sums over an axis.

    Args:
        norm: gives its parameters.

    Inputs, outputs: (…, n) float32.
    """

    def __init__(self, norm: nn.LayerNorm):
        super().__init__(auto_prefix=False)
        self.gamma, self.beta = norm.gamma, norm.beta
        self.epsilon = norm.epsilon
        count = norm.gamma.shape[0]
        self.average = Tensor(np.full((count, 1), 1 / count, np.float32))

    def construct(self, x: Tensor) -> Tensor:
        centred = x - ops.matmul(x, self.average)
        variance = ops.matmul(centred * centred, self.average)
        # Not rsqrt, of which Lite computes twelve bits.
        return centred * (1.0 / ops.sqrt(variance + self.epsilon)) * self.gamma + self.beta


class PlainGelu(nn.Cell):
    """What ``Gelu`` computes, to 1e-7 and what sigmoid is good to: ``x * sigmoid(p(x))``, p an odd polynomial.

    Lite computes erf number by number, in a sixth of the model's time. The coefficients are those of the least
    largest error over all x; p(x) is nearly the logit of Phi(x).

    Inputs, outputs: (…) float32.
    """

    # Of x, x^3, …, x^13.
    COEFFICIENTS = (
        1.595768536826988,
        0.07266829820907289,
        -6.60533827006271e-05,
        -0.00011054677953335347,
        7.94814234052486e-06,
        -2.675664460043555e-07,
        3.6278555011699673e-09,
    )

    def construct(self, x: Tensor) -> Tensor:
        square = x * x
        y = square * self.COEFFICIENTS[-1]
        for coefficient in self.COEFFICIENTS[-2:0:-1]:
            y = (y + coefficient) * square
        return x * ops.sigmoid((y + self.COEFFICIENTS[0]) * x)


def use_plain_operators(cell: nn.Cell) -> None:
    """Replaces every LayerNorm and Gelu inside `cell`."""
    for _, parent in list(cell.cells_and_names()):
        for name, child in list(parent.name_cells().items()):
            if isinstance(child, nn.LayerNorm):
                parent.insert_child_to_cell(name, PlainNorm(child))
            elif isinstance(child, Gelu):
                parent.insert_child_to_cell(name, PlainGelu())
