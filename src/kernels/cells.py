"""Cells that compute on the CPU, in float32, what others of the model compute, each by a kernel of its own."""
from __future__ import annotations

from pathlib import Path

import numpy as np
from mindspore import Parameter, Tensor, nn, ops


def operator(library: Path, function: str, like: tuple[int, ...]) -> ops.Custom:
    """The operator of a kernel in the library.

    Args: like: for each output the input whose shape and type it has.
    """

    def those(*inputs):
        return inputs[like[0]] if len(like) == 1 else tuple(inputs[i] for i in like)

    return ops.Custom(f"{library}:{function}", those, those, func_type="aot")


class BiasGelu(nn.Cell):
    """``gelu(x + b)``, exact to rounding. Inputs: x (…, n); b (n,). Outputs: (…, n)."""

    def __init__(self, library: Path):
        super().__init__()
        self.gelu = operator(library, "gelu", (0,))
        self.gradient = operator(library, "gelu_gradient", (0, 1))

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        return self.gelu(x, bias)

    def bprop(self, x: Tensor, bias: Tensor, out: Tensor, dout: Tensor):
        """Gradient (…, n) of out -> gradients of x and b."""
        return self.gradient(x, bias, dout)


class Norm(nn.Cell):
    """Layer normalisation over the last axis. Inputs: x (…, n); gamma, beta (n,). Outputs: (…, n)."""

    def __init__(self, library: Path, epsilon: float):
        super().__init__()
        self.norm = operator(library, "norm", (0,))
        self.gradient = operator(library, "norm_gradient", (0, 1, 1))
        self.epsilon = Tensor(np.array([epsilon], np.float32))

    def construct(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return self.norm(x, gamma, beta, self.epsilon)

    def bprop(self, x: Tensor, gamma: Tensor, beta: Tensor, out: Tensor, dout: Tensor):
        """Gradient (…, n) of out -> gradients of x, gamma and beta."""
        return self.gradient(x, gamma, self.epsilon, dout)


class KernelGelu(nn.Cell):
    """A ``Gelu`` that also adds the bias of the linear layer before it. Inputs, outputs: (…, n) float32."""

    def __init__(self, library: Path, bias: Parameter):
        super().__init__(auto_prefix=False)
        self.bias = bias
        self.gelu = BiasGelu(library)

    def construct(self, x: Tensor) -> Tensor:
        return self.gelu(x, self.bias)


class KernelNorm(nn.Cell):
    """An ``nn.LayerNorm`` over the last axis, with its parameters. Inputs, outputs: (…, n) float32."""

    def __init__(self, library: Path, norm: nn.LayerNorm):
        super().__init__(auto_prefix=False)
        self.gamma, self.beta = norm.gamma, norm.beta
        self.norm = Norm(library, norm.epsilon)

    def construct(self, x: Tensor) -> Tensor:
        return self.norm(x, self.gamma, self.beta)
