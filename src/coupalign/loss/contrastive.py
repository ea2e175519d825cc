"""Auxiliary loss: contrast of referent and background pixels (paper, Eq 14-16)."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops

from coupalign.loss.pairs import Comparisons


class PixelContrastiveLoss(nn.Cell):
    """InfoNCE of every pixel against its side's prototype and all pixels of the other side.

    For pixel i of side s with prototype p_s: ``l_i = -log(e_i / (e_i + sum_k exp(y_i . y_k / t)))`` with
    ``e_i = exp(y_i . p_s / t)`` and k over the other side. The loss of an image is the mean over the referent's pixels
    plus the mean over the background's, and 0 if either has none. Computed in float32 through log-sum-exp, exactly, in
    memory that grows with the number of pixels, not of their pairs.

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
        self.log = log
        self.comparisons = Comparisons(temperature, normalize)

    def construct(self, pixel_features: Tensor, mask: Tensor) -> Tensor:
        batch, _, height, width = pixel_features.shape
        positive = self._nearest(mask, height, width).reshape(batch, height * width)
        sides = ops.stack((positive, 1.0 - positive), 1)
        own, others = self.comparisons(pixel_features, sides)
        loss = ops.softplus(others - own) if self.log else -ops.sigmoid(own - others)

        counts = ops.reduce_sum(sides, 2)
        weights = ops.reduce_sum(sides / ops.expand_dims(ops.maximum(counts, 1.0), 2), 1)
        both = (ops.minimum(counts[:, 0], counts[:, 1]) > 0).astype("float32")
        return (ops.reduce_sum(loss * weights, 1) * both).mean()

    @staticmethod
    def _nearest(mask: Tensor, height: int, width: int) -> Tensor:
        """Mask (B, H, W) -> (B, height, width) float32, 0 or 1; source index floor(i H / height)."""
        rows = Tensor(np.arange(height) * mask.shape[1] // height)
        columns = Tensor(np.arange(width) * mask.shape[2] // width)
        return (ops.gather(ops.gather(mask, rows, 1), columns, 2) > 0.5).astype("float32")
