"""Windows of a Swin stage: how its tokens are ordered, and which of them see each other."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops

from coupalign.model.layers import MASKED


class Permute(nn.Cell):
    """Reorders tokens: ``y[:, i] = x[:, order[i]]``. Inputs, outputs: (B, L, C).

    The gradient of a permutation is the inverse permutation; saying so is four times as fast on the CPU as
    letting the gradient scatter, and as writing the same order as reshapes and transposes.
    """

    def __init__(self, order: np.ndarray):
        super().__init__()
        self.order = Tensor(order.astype(np.int32))
        self.inverse = Tensor(np.argsort(order).astype(np.int32))

    def construct(self, x: Tensor) -> Tensor:
        return ops.gather(x, self.order, 1)

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor):
        """Gradient (B, L, C) of out -> gradient of x."""
        return (ops.gather(dout, self.inverse, 1),)


class WindowLayout:
    """Where the tokens of a map stand when windows are contiguous. NumPy only, made once.

    The map is padded at the bottom and the right to whole windows; where it is no larger than the window,
    the window is the map and nothing shifts.

    Args:
        size: height and width of the map.
        window: window of the configuration.

    Attributes:
        window, shift: of this map.
        padded: height and width with padding.
        count: windows in the map.
        plain, shifted: (padded^2,) raster position of each token, ordered window by window.
    """

    def __init__(self, size: int, window: int):
        self.size = size
        self.window = min(size, window)
        self.shift = 0 if size <= window else window // 2
        self.padded = -(-size // self.window) * self.window
        self.count = (self.padded // self.window) ** 2
        self.plain = self._by_window(0)
        self.shifted = self._by_window(self.shift)

    def _by_window(self, shift: int) -> np.ndarray:
        raster = np.arange(self.padded**2).reshape(self.padded, self.padded)
        return self._partition(np.roll(raster, (-shift, -shift), (0, 1))).reshape(-1)

    def _partition(self, values: np.ndarray) -> np.ndarray:
        """(padded, padded) -> (count, window^2)."""
        across = self.padded // self.window
        split = values.reshape(across, self.window, across, self.window)
        return split.transpose(0, 2, 1, 3).reshape(self.count, self.window**2)

    def real(self, order: np.ndarray) -> np.ndarray:
        """1 where a token in this order is of the map, 0 where it is padding: (1, padded^2, 1) float32."""
        inside = np.zeros((self.padded, self.padded), np.float32)
        inside[: self.size, : self.size] = 1
        return inside.reshape(-1)[order].reshape(1, -1, 1)

    def separation(self) -> np.ndarray:
        """Scores' bias (count, 1, n, n) that keeps apart what the cyclic shift brought into one window."""
        side = np.zeros(self.padded, int)
        side[self.padded - self.window :] = 1
        side[self.padded - self.shift :] = 2
        region = self._partition(side[:, None] * 3 + side[None, :])
        apart = region[:, :, None] != region[:, None, :]
        return np.where(apart, MASKED, 0).astype(np.float32)[:, None]

    def relative_position(self) -> np.ndarray:
        """Row of the relative position bias table for each pair of tokens of a window, (n * n,) int32."""
        y, x = np.divmod(np.arange(self.window**2), self.window)
        dy = y[:, None] - y[None, :] + self.window - 1
        dx = x[:, None] - x[None, :] + self.window - 1
        return (dy * (2 * self.window - 1) + dx).reshape(-1).astype(np.int32)
