"""Auxiliary loss: contrast of referent and background pixels (paper, Eq 14-16)."""
from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops

from src.model.layers import unit

# A pair that is not compared is put this far away, squared: its exponential is 0, its gradient too. A larger number
# would be infinite, and its product with 0 none, where a device multiplies float32 matrices in float16.
FAR = 3e4


class PixelContrastiveLoss(nn.Cell):
    """InfoNCE of every pixel against its side's prototype and all pixels of the other side.

    For pixel i of side s with prototype p_s: ``l_i = -log(e_i / (e_i + sum_k exp(y_i . y_k / t)))`` with
    ``e_i = exp(y_i . p_s / t)`` and k over the other side. The loss of an image is the mean over the referent's pixels
    plus the mean over the background's, and 0 if either has none. Computed in float32 through log-sum-exp.

    Args:
        temperature: t.
        normalize: whether pixel vectors and prototypes are scaled to length 1 (a vector shorter than 1e-6 is
            divided by 1e-6).
        log: False leaves the logarithm out, as Eq 14 and 15 are printed: ``l_i = -e_i / (e_i + …)``.

    Inputs: pixel_features Y_1 (B, d_s, h, w); mask (B, H, W), above 0.5 on the referent, brought to (h, w) by the
    nearest pixel, index rounded down. Outputs: scalar, float32, mean over the batch.
    """

    def __init__(self, temperature: float = 0.1, normalize: bool = True, log: bool = True):
        super().__init__()
        self.temperature = temperature
        self.normalize = normalize
        self.log = log

    def construct(self, pixel_features: Tensor, mask: Tensor) -> Tensor:
        batch, dim, height, width = pixel_features.shape
        features = pixel_features.astype("float32").reshape(batch, dim, height * width).swapaxes(1, 2)
        features = self._unit(features)
        positive = self._nearest(mask, height, width).reshape(batch, height * width, 1)
        sides = ops.concat((positive, 1.0 - positive), -1)
        counts = ops.reduce_sum(sides, 1)
        means = ops.matmul(sides.swapaxes(1, 2), features) / ops.expand_dims(ops.maximum(counts, 1.0), -1)
        prototypes = self._unit(means)

        own = ops.reduce_sum(features * ops.matmul(sides, prototypes), -1) / self.temperature
        # Two more columns put pairs of one side out of reach within the product itself; for the others they add 0.
        others = ops.matmul(ops.concat((features / self.temperature, sides * -FAR), -1),
                            ops.concat((features, sides * FAR), -1).swapaxes(1, 2))
        largest = ops.stop_gradient(ops.maximum(own, others.max(axis=-1)))
        # A sum as a product with ones: several times faster than the reduction on the CPU.
        total = ops.matmul(ops.exp(others - ops.expand_dims(largest, -1)), ops.ones_like(largest[:, :, None]))
        total = ops.exp(own - largest) + total.squeeze(-1)
        log_ratio = own - largest - ops.log(total)
        loss = -log_ratio if self.log else -ops.exp(log_ratio)

        weights = sides / ops.expand_dims(ops.maximum(counts, 1.0), 1)
        both = (counts.min(axis=-1) > 0).astype("float32")
        return (ops.reduce_sum(ops.expand_dims(loss, -1) * weights, (1, 2)) * both).mean()

    def _unit(self, x: Tensor) -> Tensor:
        return unit(x) if self.normalize else x

    @staticmethod
    def _nearest(mask: Tensor, height: int, width: int) -> Tensor:
        """Mask (B, H, W) -> (B, height, width) float32, 0 or 1; source index floor(i H / height)."""
        rows = Tensor(np.arange(height) * mask.shape[1] // height)
        columns = Tensor(np.arange(width) * mask.shape[2] // width)
        return (ops.gather(ops.gather(mask, rows, 1), columns, 2) > 0.5).astype("float32")
