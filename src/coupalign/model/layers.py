"""Layers that every part of the model shares, with the initial weights of Swin and BERT."""

from __future__ import annotations

from mindspore import Tensor, nn, ops
from mindspore.common.initializer import HeNormal, Initializer, TruncatedNormal

INIT_STD = 0.02  # standard deviation of initial weights, as in BERT and Swin
MIN_NORM = 1e-6  # vectors are divided by at least this length
MASKED = -1e9  # added to a score, it makes its softmax exactly 0 in float32


def dense(in_dim: int, out_dim: int, bias: bool = True) -> nn.Dense:
    """A linear layer with weight (out_dim, in_dim), initialised from a truncated normal, and zero bias."""
    return nn.Dense(in_dim, out_dim, weight_init=TruncatedNormal(INIT_STD), bias_init="zeros", has_bias=bias)


def conv(in_dim: int, out_dim: int, kernel: int, weight_init: Initializer | None = None) -> nn.Conv2d:
    """A convolution with zero bias that keeps the map's size; by default He initialisation for a following ReLU."""
    init = {"weight_init": weight_init or HeNormal(mode="fan_out", nonlinearity="relu"), "bias_init": "zeros"}
    return nn.Conv2d(in_dim, out_dim, kernel, pad_mode="pad", padding=kernel // 2, has_bias=True, **init)


class Gelu(nn.Cell):
    """Exact GELU, ``x * Phi(x)``, computed in float32 because ``1 + erf(x)`` cancels in half precision.

    It is written with ``erf`` because the gradient is a fifth cheaper on the CPU than that of the fused operator.

    Inputs: x (…). Outputs: same shape and dtype as x.
    """

    def construct(self, x: Tensor) -> Tensor:
        y = x.astype("float32")
        return (y * (ops.erf(y * 0.7071067811865476) * 0.5 + 0.5)).astype(x.dtype)


def l2_normalize(x: Tensor) -> Tensor:
    """x / max(|x|, 1e-6) over the last axis. Value and gradient are finite at 0.

    ``rsqrt`` is avoided because MindSpore Lite computes it with only twelve bits on the CPU.
    """
    square = ops.reduce_sum(x * x, -1)
    return x * ops.expand_dims(1.0 / ops.sqrt(ops.maximum(square, MIN_NORM**2)), -1)


def token_norm(x: Tensor, token_mask: Tensor | None = None) -> Tensor:
    """Centres the tokens of each sample and scales their deviations to RMS 1: (B, L, C), float32 inside.

    A softmax over tokens only depends on how they differ. What they have in common may be a thousand times as large,
    and then a layer normalisation of each token hides the differences.

    Args:
        token_mask: (B, L), 1 for a real token; padding becomes 0. None if all tokens are real.
    """
    y = x.astype("float32")
    real = ops.ones_like(y[:, :, :1]) if token_mask is None else ops.expand_dims(token_mask.astype("float32"), -1)
    count = real.sum(1, keepdims=True)
    deviation = (y - (y * real).sum(1, keepdims=True) / count) * real
    variance = ops.square(deviation).mean(2, keep_dims=True).sum(1, keepdims=True) / count
    return (deviation / ops.sqrt(variance + MIN_NORM**2)).astype(x.dtype)


def padding_bias(token_mask: Tensor) -> Tensor:
    """Attention bias that masks padding: token_mask (B, T), 1 for a real token -> (B, 1, T) float32."""
    return ops.expand_dims((1.0 - token_mask.astype("float32")) * MASKED, 1)


class ScaledDotProductAttention(nn.Cell):
    """Multi-head attention of already projected features, with dropout of its weights. Scores and softmax are float32.

    Inputs: query (B, L, D); key, value (B, S, D); bias (B or 1, 1, S), added to the scores.
    Outputs: (B, L, D), same dtype as value.
    """

    def __init__(self, heads: int, dropout: nn.Cell | None = None):
        super().__init__()
        self.heads = heads
        self.has_dropout = dropout is not None
        if self.has_dropout:
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
        if self.has_dropout:
            weights = self.dropout(weights)  # type: ignore[misc]
        return ops.matmul(weights, value).transpose(0, 2, 1, 3).reshape(batch, length, dim)
