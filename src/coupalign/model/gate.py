"""Gate of the Word-Pixel Alignment (paper, Eq 6)."""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from coupalign.model.layers import dense


class Gate(nn.Cell):
    """Scales a fused feature by a learned gate: ``tanh(MLP(f)) * f``.

    The gate keeps the fused signal from overwhelming the encoder's own features (Eq 2).

    Args:
        dim: Width of the feature and of the hidden layer.

    Inputs: f (B, L, dim).
    Outputs: the gated feature and the gate ``tanh(MLP(f))``, between -1 and 1; both (B, L, dim), same dtype as f.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = dense(dim, dim)
        self.fc2 = dense(dim, dim)

    def construct(self, f: Tensor) -> tuple[Tensor, Tensor]:
        gate = ops.tanh(self.fc2(ops.relu(self.fc1(f))))
        return gate * f, gate
