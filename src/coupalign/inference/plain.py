"""Replacements for operators that MindSpore Lite 2.0 computes wrongly or slowly on a CPU."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops

from coupalign.model.layers import Gelu


class PlainNorm(nn.Cell):
    """The function of a LayerNorm over the last axis, by matrix products.

    MindSpore Lite 2.0 omits rows when it runs its own LayerNorm on several CPU threads. The means are products with a
    column of 1 / n, because Lite fuses sums over an axis into LayerNorm again.

    Inputs: x (…, n) float32. Outputs: (…, n) float32.
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
        # Lite computes rsqrt to 12 bits only.
        return centred * (1.0 / ops.sqrt(variance + self.epsilon)) * self.gamma + self.beta


class PlainGelu(nn.Cell):
    """``Gelu`` as ``x * sigmoid(p(x))`` with an odd polynomial p, which approximates the logit of Phi(x).

    The error is below 1e-7 plus the error of sigmoid. Lite computes erf element by element, which takes a sixth of the
    model's time. The coefficients minimise the largest error over all x.

    Inputs: x (…) float32. Outputs: (…) float32.
    """

    # For x, x^3, …, x^13.
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
