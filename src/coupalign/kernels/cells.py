"""Cells that compute the same as Cells of the model, with kernels, in float32 on the CPU.

MindSpore passes ``bprop`` the gradients of a Cell's inputs only, not of its parameters. So each kernel is a Cell that
takes weights as inputs, and a ``Kernel…`` Cell, which replaces a Cell of the model, hands it the parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from mindspore import Parameter, Tensor, float32, nn, ops

from coupalign.model.dropout import DropPath
from coupalign.model.layers import ScaledDotProductAttention
from coupalign.model.swin import SwinBlock, WindowAttention


def operator(library: Path, function: str, types: Callable, shapes: Callable | None = None) -> ops.Custom:
    """An operator that calls the kernel `function`.

    `types` gives the dtypes of the outputs from those of the inputs, and `shapes` their shapes if `types` does not.
    """
    return ops.Custom(f"{library}:{function}", shapes or types, types, func_type="aot")


class BiasGelu(nn.Cell):
    """``gelu(x + b)``, exact up to rounding. Inputs: x (…, n); b (n,). Outputs: (…, n)."""

    def __init__(self, library: Path):
        super().__init__()
        self.gelu = operator(library, "gelu", lambda x, bias: x)
        self.gradient = operator(library, "gelu_gradient", lambda x, bias, dout: (x, bias))

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        return self.gelu(x, bias)

    def bprop(self, x: Tensor, bias: Tensor, out: Tensor, dout: Tensor):
        """Gradient (…, n) of out -> gradients of x and b."""
        return self.gradient(x, bias, dout)


class Norm(nn.Cell):
    """Layer normalisation over the last axis. Inputs: x (…, n); gamma, beta (n,). Outputs: (…, n)."""

    def __init__(self, library: Path, epsilon: float):
        super().__init__()
        self.norm = operator(library, "norm", lambda x, *_: x)
        self.gradient = operator(library, "norm_gradient", lambda x, gamma, *_: (x, gamma, gamma))
        self.epsilon = Tensor(np.array([epsilon], np.float32))

    def construct(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return self.norm(x, gamma, beta, self.epsilon)

    def bprop(self, x: Tensor, gamma: Tensor, beta: Tensor, out: Tensor, dout: Tensor):
        """Gradient (…, n) of out -> gradients of x, gamma and beta."""
        return self.gradient(x, gamma, self.epsilon, dout)


class Residual(nn.Cell):
    """``x + scale (a + b)``. Inputs: x, a (B, L, n); b (n,); scale (B,) or (1,). Outputs: (B, L, n).

    The scale drops branches (stochastic depth) and has no gradient. Without ``drops`` it is 1.
    """

    def __init__(self, library: Path, drops: bool):
        super().__init__()
        self.drops = drops
        self.add = operator(library, "residual", lambda x, *_: x)
        self.bias_gradient = operator(
            library, "residual_bias_gradient", lambda dout, _: dout, lambda dout, _: dout[-1:]
        )

    def construct(self, x: Tensor, a: Tensor, bias: Tensor, scale: Tensor) -> Tensor:
        return self.add(x, a, bias, scale)

    def bprop(self, x: Tensor, a: Tensor, bias: Tensor, scale: Tensor, out: Tensor, dout: Tensor):
        """Gradient (B, L, n) of out -> gradients of x, a and b."""
        da = dout * scale.reshape(-1, 1, 1) if self.drops else dout
        return dout, da, self.bias_gradient(dout, scale), ops.zeros_like(scale)


class ResidualNorm(nn.Cell):
    """A ``Residual`` followed by layer normalisation.

    Inputs: those of ``Residual``; gamma, beta (n,). Outputs: the sum and the normalised sum, (B, L, n) each.
    """

    def __init__(self, library: Path, epsilon: float, drops: bool):
        super().__init__()
        self.drops = drops
        self.add = operator(library, "residual_norm", lambda x, *_: (x, x))
        self.gradient = operator(library, "residual_norm_gradient", lambda x, gamma, *_: (x, gamma, gamma, gamma))
        self.epsilon = Tensor(np.array([epsilon], np.float32))

    def construct(self, x: Tensor, a: Tensor, bias: Tensor, scale: Tensor, gamma: Tensor, beta: Tensor):
        return self.add(x, a, bias, scale, gamma, beta, self.epsilon)

    def bprop(self, x: Tensor, a: Tensor, bias: Tensor, scale: Tensor, gamma: Tensor, beta: Tensor, out, dout):
        """Gradients (B, L, n) of both outputs -> gradients of all inputs except the scale."""
        dx, dgamma, dbeta, dbias = self.gradient(out[0], gamma, self.epsilon, scale, dout[0], dout[1])
        da = dx * scale.reshape(-1, 1, 1) if self.drops else dx
        return dx, da, dbias, ops.zeros_like(scale), dgamma, dbeta


class FusedWindowAttention(nn.Cell):
    """The part of a ``WindowAttention`` between its two linear layers.

    Inputs: output of the first linear layer without its bias, (B, L, 3 dim), window by window; its bias (3 dim,);
    relative position bias (heads, n, n), n tokens in a window; mask of shifted windows (count, n, n), or (1,) for none.
    Outputs: (B, L, dim).
    """

    def __init__(self, library: Path):
        super().__init__()
        self.attention = operator(library, "window_attention", lambda x, *_: x, lambda x, *_: (*x[:-1], x[-1] // 3))
        self.gradient = operator(library, "window_attention_gradient", lambda *inputs: inputs[:3])

    def construct(self, product: Tensor, bias: Tensor, relative: Tensor, mask: Tensor) -> Tensor:
        return self.attention(product, bias, relative, mask)

    def bprop(self, product: Tensor, bias: Tensor, relative: Tensor, mask: Tensor, out: Tensor, dout: Tensor):
        """Gradient (B, L, dim) of out -> gradients of the first three inputs."""
        gradients = self.gradient(product, bias, relative, mask, dout)
        return gradients[0], gradients[1], gradients[2], ops.zeros_like(mask)


class KernelScaledDotProductAttention(nn.Cell):
    """A ``ScaledDotProductAttention`` with a kernel, except if dropout is active. Inputs and outputs are float32."""

    def __init__(self, library: Path, heads: ScaledDotProductAttention):
        super().__init__(auto_prefix=False)
        self.fallback = heads
        self.drops = heads.has_dropout and heads.dropout.dropped > 0
        self.heads = ops.ones(heads.heads)  # only its shape matters
        self.no_bias = ops.zeros(1)
        self.attention = FusedAttention(library)

    def construct(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        if self.drops and self.training:
            return self.fallback(query, key, value, bias)
        return self.attention(query, key, value, self.no_bias if bias is None else bias, self.heads)


class FusedAttention(nn.Cell):
    """Multi-head attention as one operator.

    Inputs: those of ``ScaledDotProductAttention``; any tensor of shape (heads,). Outputs: (B, L, D).
    """

    def __init__(self, library: Path):
        super().__init__()
        self.attention = operator(library, "attention", lambda query, *_: query)
        self.gradient = operator(library, "attention_gradient", lambda *inputs: inputs[:3])

    def construct(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, heads: Tensor) -> Tensor:
        return self.attention(query, key, value, bias, heads)

    def bprop(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, heads: Tensor, out: Tensor, dout: Tensor):
        """Gradient (B, L, D) of out -> gradients of query, key and value."""
        gradients = self.gradient(query, key, value, bias, heads, dout)
        return gradients[0], gradients[1], gradients[2], ops.zeros_like(bias), ops.zeros_like(heads)


class KernelGelu(nn.Cell):
    """A ``Gelu`` that also adds the bias of the preceding linear layer. Inputs, outputs: (…, n) float32."""

    def __init__(self, library: Path, bias: Parameter):
        super().__init__(auto_prefix=False)
        self.bias = bias
        self.gelu = BiasGelu(library)

    def construct(self, x: Tensor) -> Tensor:
        return self.gelu(x, self.bias)


class KernelNorm(nn.Cell):
    """An ``nn.LayerNorm`` over the last axis with a kernel. Inputs, outputs: (…, n) float32."""

    def __init__(self, library: Path, norm: nn.LayerNorm):
        super().__init__(auto_prefix=False)
        self.gamma, self.beta = norm.gamma, norm.beta
        self.norm = Norm(library, norm.epsilon)

    def construct(self, x: Tensor) -> Tensor:
        # MindSpore's recomputation does not recognise the nodes of ``bprop`` as gradients. Where dropout comes before the
        # norm, it would build a cyclic graph. The gradients of these reshapes separate the two.
        y = self.norm(x.reshape(-1, x.shape[-1]), self.gamma, self.beta)
        return y.reshape(x.shape)


class KernelWindowAttention(nn.Cell):
    """A ``WindowAttention`` whose scores stay in the cache. Inputs, outputs: (B, L, dim)."""

    def __init__(self, library: Path, attention: WindowAttention):
        super().__init__(auto_prefix=False)
        self.shape = (attention.heads, attention.window_area, attention.window_area)
        self.qkv, self.proj = attention.qkv, attention.proj
        self.qkv.has_bias = False
        self.relative_position_bias_table = attention.relative_position_bias_table
        self.relative_position = attention.relative_position
        self.shift_attention_mask = attention.shift_attention_mask.squeeze(1) if attention.shifted else ops.zeros(1)
        self.fused_attention = FusedWindowAttention(library)

    def construct(self, x: Tensor) -> Tensor:
        relative = ops.gather(self.relative_position_bias_table, self.relative_position, 0)
        relative = relative.transpose(1, 0).reshape(self.shape)
        return self.proj(self.fused_attention(self.qkv(x), self.qkv.bias, relative, self.shift_attention_mask))


class KernelSwinBlock(nn.Cell):
    """A ``SwinBlock`` that adds both residuals with kernels. Inputs, outputs: (B, L, dim) float32."""

    def __init__(self, library: Path, block: SwinBlock):
        super().__init__(auto_prefix=False)
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, block.attn, block.norm2, block.mlp
        self.drop_path1, self.drop_path2 = block.drop_path1, block.drop_path2
        self.attn.proj.has_bias = self.mlp.fc2.has_bias = False
        self.is_padded = block.is_padded
        if self.is_padded:
            self.padding_mask = block.padding_mask
        self.one = ops.ones(1)
        self.add_norm = ResidualNorm(library, block.norm2.epsilon, block.drop_path1.rate > 0)
        self.add = Residual(library, block.drop_path2.rate > 0)

    def construct(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        if self.is_padded:
            y = y * self.padding_mask
        bias, scale = self.attn.proj.bias, self._scale(x, self.drop_path1)
        x, y = self.add_norm(x, self.attn(y), bias, scale, self.norm2.gamma, self.norm2.beta)
        return self.add(x, self.mlp(y), self.mlp.fc2.bias, self._scale(x, self.drop_path2))

    def _scale(self, x: Tensor, drop_path: DropPath) -> Tensor:
        if drop_path.rate == 0.0 or not self.training:
            return self.one
        return drop_path.scales(x.shape[0], x.dtype)


class KernelClip(nn.Cell):
    """A ``Clip`` as one operator instead of four per gradient. Inputs and outputs are those of ``Clip``, float32."""

    def __init__(self, library: Path, limit: float):
        super().__init__(auto_prefix=False)
        self.clips = limit > 0
        self.limit = Tensor(np.array([limit], np.float32))
        self.norm = operator(library, "global_norm", lambda *_: float32, lambda *_: (1,))
        self.clip = operator(library, "clip", lambda *inputs: inputs)  # the norm is like the limit

    def construct(self, gradients: Sequence[Tensor]):
        if not self.clips:
            return self.norm(*gradients).reshape(()), gradients
        results = self.clip(self.limit, *gradients)
        return results[0].reshape(()), results[1:]
