"""Gate of the Word-Pixel Alignment (paper, Eq 6)."""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from coupalign.model.layers import dense


class Gate(nn.Cell):
    """Lets a fused feature in little by little: ``tanh(MLP(f)) * f``.

    Without it the fused signal overwhelms the encoder's own (Eq 2).

    Args:
        dim: width of the feature, and of the hidden layer.

    Inputs: f (B, L, dim). Outputs: the gated f, and the opening ``tanh(MLP(f))``, between -1 and 1; both (B, L, dim), in
    the precision of f.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = dense(dim, dim)
        self.fc2 = dense(dim, dim)

    def construct(self, f: Tensor) -> tuple[Tensor, Tensor]:
        opening = ops.tanh(self.fc2(ops.relu(self.fc1(f))))
        return opening * f, opening
