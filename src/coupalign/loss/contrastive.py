"""Auxiliary loss: contrast of referent and background pixels (paper, Eq 14, 15, 16)."""

from __future__ import annotations

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops

from coupalign.devices import WeightedSum
from coupalign.loss.negatives import NegativeTerms
from coupalign.model.layers import MIN_NORM, l2_normalize


class PixelContrastiveLoss(nn.Cell):
    """InfoNCE of each pixel: its prototype is the positive, all pixels of the other side are the negatives.

    The two sides of an image are the referent (Eq 14) and the background (Eq 15). For pixel i of a side with
    prototype p, with negatives k:

        l_i = -log(exp(y_i . p / t) / (exp(y_i . p / t) + sum_k exp(y_i . y_k / t)))

    p is the mean of the y of its side. The loss of an image (Eq 16) is the mean over the referent plus the mean over
    the background, and 0 if either is empty. ``as_printed`` computes it from all pairs of pixels; ``construct`` gives
    the same in float32 and never holds all pairs.

    Args:
        temperature: t.
        normalize: Whether pixel vectors and prototypes are scaled to length 1 (divided by at least 1e-6).
        log: If false, the logarithm is left out, as Eq 14 and 15 are printed.
        tile: Pixels that are compared with the whole map at a time; by default chosen for the device.

    Inputs: pixel_features Y_1 (B, d_s, h, w), any float type; mask (B, H, W), above 0.5 on the referent, resized to
    (h, w) by the nearest pixel, index rounded down.
    Outputs: scalar, float32, mean over the batch.
    """

    def __init__(self, temperature: float = 0.1, normalize: bool = True, log: bool = True, tile: int | None = None):
        super().__init__()
        self.temperature, self.normalize, self.log = temperature, normalize, log
        # Vectors are divided by the root of t here, so that their products need not be divided by t.
        self.scale = Normalize(temperature**-0.5) if normalize else Scale(temperature**-0.5)
        self.positive_terms = PositiveTerms(normalize, temperature**-0.5)
        self.negative_terms = NegativeTerms(1 / temperature if normalize else None, tile)

    def as_printed(self, y: Tensor, referent: Tensor) -> Tensor:
        """Reference of the tests of ``construct``, for one image with pixels on both sides and ``log``.

        Args:
            y: Pixel vectors (d, L), scaled to length 1 if ``normalize``.
            referent: (L,) float32, 1 on the referent and 0 on the background.
        """
        pairs = ops.exp(ops.matmul(y.T, y) / self.temperature)  # (L, L)
        loss = 0.0
        for own, other in ((referent, 1.0 - referent), (1.0 - referent, referent)):  # Eq 14, Eq 15
            prototype = ops.matmul(y, own / own.sum())
            prototype = l2_normalize(prototype) if self.normalize else prototype
            positive = ops.exp(ops.matmul(prototype, y) / self.temperature)
            negatives = ops.matmul(pairs, other)
            loss -= (ops.log(positive / (positive + negatives)) * own).sum() / own.sum()  # Eq 16 adds both sides
        return loss

    def construct(self, pixel_features: Tensor, mask: Tensor) -> Tensor:
        batch, dim, height, width = pixel_features.shape
        referent = nearest(mask, height, width).reshape(batch, height * width)
        sides = ops.stack((referent, 1.0 - referent), 1)  # (B, 2, L)
        counts = ops.reduce_sum(sides, 2)
        shares = sides / ops.maximum(counts, 1.0).reshape(batch, 2, 1)

        y = self.scale(pixel_features.astype("float32").reshape(batch, dim, height * width))
        positive = self.positive_terms(y, sides, shares)  # y_i . p / t
        negative = self.negative_terms(y, referent)  # log sum_k exp(y_i . y_k / t)
        loss = ops.softplus(negative - positive) if self.log else -ops.sigmoid(positive - negative)
        both_sides = (ops.minimum(counts[:, 0], counts[:, 1]) > 0).astype("float32")
        # A pixel's share is 1 / (pixels of its side), so the sum is the mean over each side, both added: Eq 16.
        return (ops.reduce_sum(loss * ops.reduce_sum(shares, 1), 1) * both_sides).mean()


class PositiveTerms(nn.Cell):
    """``y_i . p`` for each pixel i, where p is the prototype of its side.

    Args:
        normalize: Whether prototypes are scaled to length ``length``.
        length: Factor that the vectors y were multiplied by.

    Inputs: y (B, d, L) float32; sides (B, 2, L), 1 on the pixels of a side and 0 elsewhere; shares (B, 2, L), sides
    divided by the number of their pixels. Only y has a gradient; it is written out to make one map instead of two.
    Outputs: (B, L).
    """

    def __init__(self, normalize: bool, length: float):
        super().__init__()
        self.length = length if normalize else 1.0
        self.scale = Normalize(length) if normalize else Scale(1.0)
        self.mm = ops.BatchMatMul()
        self.mm_ta, self.mm_tb = ops.BatchMatMul(transpose_a=True), ops.BatchMatMul(transpose_b=True)

    def construct(self, y: Tensor, sides: Tensor, shares: Tensor) -> Tensor:
        prototypes = self.scale(self.mm_tb(y, shares) / self.length)  # (B, d, 2)
        return ops.reduce_sum(self.mm_ta(prototypes, y) * sides, 1)

    def bprop(self, y: Tensor, sides: Tensor, shares: Tensor, out: Tensor, dout: Tensor):
        """Gradient (B, L) of the output -> gradient of y."""
        means = self.mm_tb(y, shares) / self.length
        prototypes = self.scale(means)
        d_products = ops.broadcast_to(ops.expand_dims(dout, 1), sides.shape) * sides
        d_means = self.scale.bprop(means, prototypes, self.mm_tb(y, d_products))[0] / self.length
        dy = self.mm(ops.concat((prototypes, d_means), 2), ops.concat((d_products, shares), 1))
        return dy, ops.zeros_like(sides), ops.zeros_like(shares)


class Scale(nn.Cell):
    """``factor x``. Inputs, outputs: (…) float32."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def construct(self, x: Tensor) -> Tensor:
        return x * self.factor

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor):
        """Gradient of the output -> gradient of x."""
        return (dout * self.factor,)


class Normalize(nn.Cell):
    """``length x / max(|x|, 1e-6)`` over axis 1. Inputs, outputs: (B, d, n) float32.

    The gradient is written out because automatic differentiation keeps several more maps of this size.
    """

    def __init__(self, length: float):
        super().__init__()
        self.length = length
        self.sum = WeightedSum(axis=1)

    def construct(self, x: Tensor) -> Tensor:
        return x * ops.broadcast_to(self._factor(x), x.shape)

    def bprop(self, x: Tensor, out: Tensor, dout: Tensor):
        """Gradient of the output -> gradient of x, without its part along x where x is longer than 1e-6."""
        factor = self._factor(x)
        is_long = (factor < Tensor(self.length / MIN_NORM * (1 - 1e-6), mindspore.float32)).astype("float32")
        along = self._sum(out * dout) * is_long / self.length**2
        return ((dout - out * ops.broadcast_to(along, out.shape)) * ops.broadcast_to(factor, out.shape),)

    def _factor(self, x: Tensor) -> Tensor:
        return self.length * ops.rsqrt(ops.maximum(self._sum(x * x), MIN_NORM**2))

    def _sum(self, x: Tensor) -> Tensor:
        """(B, d, n) -> (B, 1, n)."""
        return ops.expand_dims(self.sum(x, ops.ones(x.shape[:2], mindspore.float32)), 1)


def nearest(mask: Tensor, height: int, width: int) -> Tensor:
    """Mask (B, H, W) -> (B, height, width) float32, 0 or 1, from source index floor(i H / height)."""
    rows = Tensor(np.arange(height) * mask.shape[1] // height)
    columns = Tensor(np.arange(width) * mask.shape[2] // width)
    return (ops.gather(ops.gather(mask, rows, 1), columns, 2) > 0.5).astype("float32")
