"""Layer normalisation written with operators that every runtime computes alike."""
from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops


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


def use_plain_norms(cell: nn.Cell) -> None:
    """Replaces every LayerNorm inside `cell`."""
    for _, parent in list(cell.cells_and_names()):
        for name, child in list(parent.name_cells().items()):
            if isinstance(child, nn.LayerNorm):
                parent.insert_child_to_cell(name, PlainNorm(child))
