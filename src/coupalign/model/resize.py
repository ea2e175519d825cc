"""Bilinear upsampling by an integer factor, as two matrix products."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops


def bilinear_matrix(size: int, factor: int) -> np.ndarray:
    """Weights (factor * size, size) of bilinear upsampling with half-pixel centres and clamped edges, float32."""
    out = np.arange(size * factor)
    position = np.clip((out + 0.5) / factor - 0.5, 0, size - 1)
    low = np.floor(position).astype(int)
    high = np.minimum(low + 1, size - 1)
    matrix = np.zeros((size * factor, size))
    matrix[out, low] += 1 - (position - low)
    matrix[out, high] += position - low
    return matrix.astype(np.float32)


class Upsample(nn.Cell):
    """Bilinear upsampling with ``align_corners=False``, equal on every platform and runtime.

    Resize operators differ between back ends, and MindSpore Lite lacks some of them.

    Args:
        size: Height and width of the input.
        factor: Scale factor.

    Inputs: x (B, C, size, size). Outputs: (B, C, factor * size, factor * size), same dtype as x.
    """

    def __init__(self, *, size: int, factor: int):
        super().__init__()
        self.rows = Tensor(bilinear_matrix(size, factor))
        self.columns = Tensor(bilinear_matrix(size, factor).T.copy())

    def construct(self, x: Tensor) -> Tensor:
        batch, dim, size, _ = x.shape
        wide = ops.matmul(x.reshape(-1, size), self.columns.astype(x.dtype)).reshape(batch, dim, size, -1)
        return ops.matmul(self.rows.astype(x.dtype), wide)
