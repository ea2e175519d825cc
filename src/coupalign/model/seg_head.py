"""Segmentation head (paper, Eq 10)."""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from coupalign.model.batch_norm import batch_norm
from coupalign.model.layers import conv
from coupalign.model.resize import Upsample


class DoubleConv(nn.Cell):
    """rho of Eq 10: 3x3 convolution, ReLU and batch normalisation, twice. (B, in_dim, h, w) -> (B, out_dim, h, w)."""

    def __init__(self, *, in_dim: int, out_dim: int, statistics: str):
        super().__init__()
        self.conv1 = conv(in_dim, out_dim, 3)
        self.bn1 = batch_norm(out_dim, statistics)
        self.conv2 = conv(out_dim, out_dim, 3)
        self.bn2 = batch_norm(out_dim, statistics)

    def construct(self, x: Tensor) -> Tensor:
        x = self.bn1(ops.relu(self.conv1(x)))
        return self.bn2(ops.relu(self.conv2(x)))


class SegHead(nn.Cell):
    """``Y_5 = S_o; Y_i = Up(rho(Y_{i+1})) + gamma(V_i)`` for i = 4, 3, 2, 1 (Eq 10).

    Up resizes the output of rho to the size of V_i: identity for i = 4, twice the size for the others.

    Args:
        image_dims: C_1 … C_4; C_o = C_4.
        dim: d_s, width of every Y_i.
        size: Height and width of V_1.
        statistics: Statistics of the batch normalisation; see ``coupalign.model.batch_norm``.

    Inputs: fused S_o (B, C_o, size/8, size/8); stages V_i (B, C_i, size/2^(i-1), size/2^(i-1)), i = 1 … 4.
    Outputs: Y_1 (B, d_s, size, size).
    """

    def __init__(self, *, image_dims: list[int], dim: int, size: int, statistics: str):
        super().__init__()
        self.rho = nn.CellList(
            [DoubleConv(in_dim=width, out_dim=dim, statistics=statistics) for width in (dim, dim, dim, image_dims[3])]
        )  # of Y_2 … Y_5
        self.gamma = nn.CellList([conv(width, dim, 1) for width in image_dims])
        self.up = nn.CellList([Upsample(size=size // 2 ** (i + 1), factor=2) for i in range(3)])

    def construct(self, fused: Tensor, stages: list[Tensor]) -> Tensor:
        y = self.rho[3](fused) + self.gamma[3](stages[3])  # Y_4, already of the size of V_4
        for i in (2, 1, 0):  # Y_{i+1}, down to Y_1
            y = self.up[i](self.rho[i](y)) + self.gamma[i](stages[i])
        return y
