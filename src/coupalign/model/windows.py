"""Windows of a Swin stage: token order, attention mask of shifted windows, relative positions."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops

from coupalign.model.layers import MASKED


class Permute(nn.Cell):
    """Reorders tokens: ``y[:, i] = x[:, order[i]]``. Inputs, outputs: (B, L, C).

    The gradient is written out as the inverse permutation. On the CPU this is four times as fast as the scatter of
    automatic differentiation, and as reshapes and transposes.
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
    """Token order of a square map whose windows are contiguous. NumPy only, computed once.

    The map is padded at the bottom and the right to whole windows. If it is no larger than the window, the window
    is the map and nothing shifts.

    Attributes:
        size: Height and width of the map.
        window: Window size in this map.
        shift: Shift of the shifted windows.
        padded: Height and width with padding.
        num_windows: Number of windows in the map.
        regular: (padded^2,) raster position of each token, window by window.
        shifted: The same for shifted windows.
    """

    def __init__(self, size: int, window: int):
        self.size = size
        self.window = min(size, window)
        self.shift = 0 if size <= window else window // 2
        self.padded = -(-size // self.window) * self.window
        self.num_windows = (self.padded // self.window) ** 2
        self.regular = self._by_window(0)
        self.shifted = self._by_window(self.shift)

    def _by_window(self, shift: int) -> np.ndarray:
        raster = np.arange(self.padded**2).reshape(self.padded, self.padded)
        return self._partition(np.roll(raster, (-shift, -shift), (0, 1))).reshape(-1)

    def _partition(self, values: np.ndarray) -> np.ndarray:
        """(padded, padded) -> (num_windows, window^2)."""
        across = self.padded // self.window
        split = values.reshape(across, self.window, across, self.window)
        return split.transpose(0, 2, 1, 3).reshape(self.num_windows, self.window**2)

    def padding_mask(self, order: np.ndarray) -> np.ndarray:
        """(1, padded^2, 1) float32 in the given order: 1 for a token of the map, 0 for padding."""
        inside = np.zeros((self.padded, self.padded), np.float32)
        inside[: self.size, : self.size] = 1
        return inside.reshape(-1)[order].reshape(1, -1, 1)

    def shift_attention_mask(self) -> np.ndarray:
        """Attention bias (num_windows, 1, n, n) that masks pairs that only the cyclic shift brought together."""
        side = np.zeros(self.padded, int)
        side[self.padded - self.window :] = 1
        side[self.padded - self.shift :] = 2
        region = self._partition(side[:, None] * 3 + side[None, :])
        apart = region[:, :, None] != region[:, None, :]
        return np.where(apart, MASKED, 0).astype(np.float32)[:, None]

    def relative_position(self) -> np.ndarray:
        """Row of the relative position bias table for each pair of tokens in a window, (n * n,) int32."""
        y, x = np.divmod(np.arange(self.window**2), self.window)
        dy = y[:, None] - y[None, :] + self.window - 1
        dx = x[:, None] - x[None, :] + self.window - 1
        return (dy * (2 * self.window - 1) + dx).reshape(-1).astype(np.int32)
