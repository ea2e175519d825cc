"""Layers that every part of the model is built from, with the starting weights of Swin and BERT."""

from __future__ import annotations

from mindspore import Tensor, nn, ops
from mindspore.common.initializer import HeNormal, TruncatedNormal

START = 0.02  # standard deviation of the starting weights, as in BERT and Swin
EPSILON = 1e-6  # least length a vector is divided by
MASKED = -1e9  # added to a score, makes its softmax exactly 0 in float32


def dense(in_dim: int, out_dim: int, bias: bool = True) -> nn.Dense:
    """A linear layer, weight (out_dim, in_dim), started from a truncated normal of .02 with zero bias."""
    return nn.Dense(in_dim, out_dim, weight_init=TruncatedNormal(START), bias_init="zeros", has_bias=bias)


def conv(in_dim: int, out_dim: int, kernel: int) -> nn.Conv2d:
    """A convolution that keeps the size of the map, with bias, started as He et al. start one before a ReLU."""
    return nn.Conv2d(
        in_dim,
        out_dim,
        kernel,
        pad_mode="pad",
        padding=kernel // 2,
        has_bias=True,
        weight_init=HeNormal(mode="fan_out", nonlinearity="relu"),
        bias_init="zeros",
    )


class Gelu(nn.Cell):
    """Exact GELU, ``x * Phi(x)``. Inputs, outputs: (…), in the precision of x.

    Written with ``erf`` because its gradient then costs four fifths of the fused operator's on the CPU; in float32,
    since of a small Phi, which is 1 + erf, a shorter type leaves nothing.
    """

    def construct(self, x: Tensor) -> Tensor:
        y = x.astype("float32")
        return (y * (ops.erf(y * 0.7071067811865476) * 0.5 + 0.5)).astype(x.dtype)


def unit(x: Tensor) -> Tensor:
    """x / max(|x|, 1e-6) over the last axis; at 0 both the value and the gradient are finite.

    Not written with rsqrt, of which MindSpore Lite computes twelve bits on the CPU.
    """
    square = ops.reduce_sum(x * x, -1)
    return x * ops.expand_dims(1.0 / ops.sqrt(ops.maximum(square, EPSILON**2)), -1)


def padding_bias(token_mask: Tensor) -> Tensor:
    """Scores' bias that hides padding: token_mask (B, T), 1 for a real token -> (B, 1, T) float32."""
    return ops.expand_dims((1.0 - token_mask.astype("float32")) * MASKED, 1)


class Heads(nn.Cell):
    """Multi-head attention of already projected features, scores and softmax in float32.

    Args:
        heads: divides D.
        dropout: of the attention weights.

    Inputs: query (B, L, D); key, value (B, S, D); bias (B or 1, 1, S), added to the scores. Outputs: (B, L, D), in the
    precision of value.
    """

    def __init__(self, heads: int, dropout: nn.Cell | None = None):
        super().__init__()
        self.heads = heads
        self.drops = dropout is not None
        if self.drops:
            self.dropout = dropout

    def construct(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        batch, length, dim = query.shape
        heads, source = self.heads, key.shape[1]
        query = query.reshape(batch, length, heads, dim // heads).transpose(0, 2, 1, 3)
        key = key.reshape(batch, source, heads, dim // heads).transpose(0, 2, 3, 1)
        value = value.reshape(batch, source, heads, dim // heads).transpose(0, 2, 1, 3)
        scores = ops.matmul((query * (dim // heads) ** -0.5).astype("float32"), key.astype("float32"))
        if bias is not None:
            scores = scores + ops.expand_dims(bias, 1)
        weights = ops.softmax(scores, axis=-1).astype(value.dtype)
        if self.drops:
            weights = self.dropout(weights)
        return ops.matmul(weights, value).transpose(0, 2, 1, 3).reshape(batch, length, dim)
