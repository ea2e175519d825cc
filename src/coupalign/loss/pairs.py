"""What each pixel is compared with: its side's prototype and the other side's pixels (paper, terms of Eq 14 and 15)."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype

from coupalign.model.layers import MIN_NORM as EPSILON

EMPTY = -1e30  # logarithm of an empty sum, and what hides a score from a maximum
LEAST = 1e-30  # in place of an empty sum where exponentials are taken of scores as they are; others are larger
BOUND = 11.0  # scores no further from 0 have exponentials inside float16, in which some devices multiply float32


class Comparisons(nn.Cell):
    """``own_i = y_i . p / t`` and ``others_i = log sum_k exp(y_i . y_k / t)`` of every pixel i.

    p is the prototype of the pixel's side, the mean of its y; k runs over the other side. Pairs are never all held:
    the smaller side of each image is walked in stripes, and each stripe is compared with the whole map. That is
    min(P, N) (P + N) <= 2 P N products for P and N pixels, and one pass over them serves both sides. The gradient makes
    the products anew. All images walk at once, so that each takes as many stripes as the one that needs most. Shapes
    are fixed, only the number of stripes depends on the masks: a loop of the graph, whose features and scores stay on
    the device.

    Maps stay (d, L) as they come, and are broadcast before they are multiplied: on the CPU, operators that transpose
    or broadcast by themselves are ten times slower, and each keeps several maps' memory for good. For the same reason
    they are divided by the root of t when they are made, and not each product by t.

    Args:
        temperature: t.
        normalize: whether y and p are scaled to length 1 (divided by 1e-6 where they are shorter).

    Inputs: features (B, d, h, w), any precision; sides (B, 2, L) float32 with L = hw, [:, 0] is 1 on the referent and
    [:, 1] on the background, else 0. There is no gradient by the sides.
    Outputs: own, others (B, L) float32; others is below -69 where the other side has no pixel.
    """

    def __init__(self, temperature: float, normalize: bool):
        super().__init__()
        self.length = temperature**-0.5  # of a z, which is y over the root of t
        self.normalize = normalize
        self.bounded = normalize and temperature * BOUND >= 1
        self.mm = ops.BatchMatMul()
        self.mm_ta, self.mm_tb = ops.BatchMatMul(transpose_a=True), ops.BatchMatMul(transpose_b=True)

    def construct(self, features: Tensor, sides: Tensor):
        z, _ = self._scaled(_maps(features), EPSILON)
        prototypes, _ = self._prototypes(z, _shares(sides))
        own = ops.reduce_sum(self.mm_ta(prototypes, z) * sides, 1)
        return own, self._others(z, sides)

    def bprop(self, features: Tensor, sides: Tensor, out: tuple, dout: tuple):
        z, scale = self._scaled(_maps(features), EPSILON)
        shares = _shares(sides)
        prototypes, prototype_scale = self._prototypes(z, shares)
        d_own = ops.broadcast_to(ops.expand_dims(dout[0], 1), sides.shape) * sides
        d_means = self._d_prototypes(prototypes, prototype_scale, self.mm_tb(z, d_own))
        dz = self._d_others(z, sides, out[1], dout[1])
        dz = dz + self.mm(ops.concat((prototypes, d_means), 2), ops.concat((d_own, shares), 1))
        gradient = self._d_scaled(z, scale, dz, EPSILON).reshape(features.shape)
        return gradient.astype(features.dtype), ops.zeros_like(sides)

    def _others(self, z: Tensor, sides: Tensor) -> Tensor:
        """`others`, (B, L); until the end of the walk sums themselves where scores are bounded, else logarithms."""
        batch, _, length = z.shape
        walked, faced, order, stripes = _plan(sides)
        of_walked = ops.zeros((batch, length), mstype.float32)
        of_faced = ops.full((batch, 1, length), 0.0 if self.bounded else EMPTY, dtype=mstype.float32)
        stripe = Tensor(0, mstype.int32)
        while stripe < stripes:
            pixels, valid = _pixels(order, stripe)
            scores = self.mm_ta(_picked(z, pixels), z)
            if self.bounded:
                exponentials = ops.exp(scores)
                of_stripe = self.mm(exponentials, ops.expand_dims(faced, 2))
                of_faced = of_faced + self.mm(ops.expand_dims(valid, 1), exponentials)
            else:
                of_stripe = _log_sum(scores, ops.expand_dims(faced, 1), 2)
                of_faced = ops.logaddexp(of_faced, _log_sum(scores, ops.expand_dims(valid, 2), 1))
            of_stripe = of_stripe.reshape(valid.shape) * valid
            of_walked = ops.tensor_scatter_elements(of_walked, pixels, of_stripe, 1, "add")
            stripe = stripe + 1
        others = ops.where(walked > 0, of_walked, of_faced.reshape(batch, length))
        return ops.log(ops.maximum(others, LEAST)) if self.bounded else others

    def _d_others(self, z: Tensor, sides: Tensor, others: Tensor, d_others: Tensor) -> Tensor:
        """Gradient of `_others` by z, (B, d, L), from its output and the gradient by that, (B, L)."""
        _, faced, order, stripes = _plan(sides)
        dz = ops.zeros_like(z)
        stripe = Tensor(0, mstype.int32)
        while stripe < stripes:
            pixels, valid = _pixels(order, stripe)
            z_stripe = _picked(z, pixels)
            d_scores = self._d_scores(self.mm_ta(z_stripe, z), pixels, valid, faced, others, d_others)
            dz = dz + self.mm(z_stripe, d_scores)
            d_stripe = self.mm_tb(z, d_scores)
            places = ops.broadcast_to(ops.expand_dims(pixels, 1), d_stripe.shape)
            dz = ops.tensor_scatter_elements(dz, places, d_stripe, 2, "add")
            stripe = stripe + 1
        return dz

    def _d_scores(
        self, scores: Tensor, pixels: Tensor, valid: Tensor, faced: Tensor, sums: Tensor, d_sums: Tensor
    ) -> Tensor:
        """Gradient by the scores of a stripe, (B, T, L), each of which is in the sum of its row and of its column.

        The sums are logarithms, (B, L); valid is (B, T), faced (B, L), 0 where a pixel's scores do not count.
        """
        rates = d_sums * ops.exp(-sums) if self.bounded else d_sums
        of_rows = ops.stack((ops.gather_elements(rates, 1, pixels) * valid, valid), 1)
        of_columns = ops.stack((faced, rates * faced), 1)
        if self.bounded:
            return ops.exp(scores) * self.mm_ta(of_rows, of_columns)
        # No score that counts exceeds its sums; the minimum keeps the others' exponentials finite.
        of_stripe = ops.expand_dims(ops.gather_elements(sums, 1, pixels), 2)
        by_rows = ops.exp(ops.minimum(scores - ops.broadcast_to(of_stripe, scores.shape), 0.0))
        by_columns = ops.exp(ops.minimum(scores - ops.broadcast_to(ops.expand_dims(sums, 1), scores.shape), 0.0))
        return by_rows * self.mm_ta(of_rows[:, :1], of_columns[:, :1]) + by_columns * self.mm_ta(
            of_rows[:, 1:], of_columns[:, 1:]
        )

    def _prototypes(self, z: Tensor, shares: Tensor):
        """Prototypes of both sides over the root of t, (B, d, 2), and what each mean was multiplied by, (B, 1, 2)."""
        means = self.mm_tb(z, shares)
        return self._scaled(means, EPSILON * self.length) if self.normalize else (means, means)

    def _d_prototypes(self, prototypes: Tensor, scale: Tensor, d_prototypes: Tensor) -> Tensor:
        """Gradient of `_prototypes` by the means."""
        if not self.normalize:
            return d_prototypes
        return self._d_scaled(prototypes, scale, d_prototypes, EPSILON * self.length)

    def _scaled(self, x: Tensor, shortest: float):
        """x (B, d, n) over the root of t, with normalisation from length 1, and what each was multiplied by, (B, 1, n).

        Vectors shorter than `shortest` count as that long.
        """
        batch, _, count = x.shape
        scale = ops.ones((batch, 1, count), mstype.float32) * self.length
        if self.normalize:
            scale = scale * ops.rsqrt(ops.maximum(_column_sums(x * x), shortest**2))
        return x * ops.broadcast_to(scale, x.shape), scale

    def _d_scaled(self, z: Tensor, scale: Tensor, dz: Tensor, shortest: float) -> Tensor:
        """Gradient of `_scaled` by x from its output; vectors that were too short were multiplied by a constant."""
        if self.normalize:
            # a little less than what that constant is, which rounding may make smaller
            follows = (scale < Tensor((1 - 1e-6) * self.length / shortest, mstype.float32)).astype("float32")
            along = _column_sums(z * dz) * follows / self.length**2
            dz = dz - z * ops.broadcast_to(along, z.shape)
        return dz * ops.broadcast_to(scale, z.shape)


def _column_sums(x: Tensor) -> Tensor:
    """(B, d, n) -> (B, 1, n), by a product, which is faster than a sum on the CPU."""
    return ops.BatchMatMul()(ops.ones((x.shape[0], 1, x.shape[1]), mstype.float32), x)


def _log_sum(scores: Tensor, counted: Tensor, axis: int) -> Tensor:
    """log sum exp of (B, T, L) over an axis, kept; of scores where `counted`, (B, 1, L) or (B, T, 1), is 1."""
    scores = scores + ops.broadcast_to((1.0 - counted) * EMPTY, scores.shape)
    largest = ops.amax(scores, axis, keepdims=True)
    exponentials = ops.exp(scores - ops.broadcast_to(largest, scores.shape))
    return largest + ops.log(exponentials.sum(axis=axis, keepdims=True))


def _shares(sides: Tensor) -> Tensor:
    """(B, 2, L), 1 over the number of pixels of a side where it has them."""
    return sides / ops.maximum(ops.reduce_sum(sides, 2), 1.0).reshape(sides.shape[0], 2, 1)


def _plan(sides: Tensor):
    """How images are walked, from their sides (B, 2, L).

    Returns: 1.0 on the smaller side, which is walked, and on the other, which it faces, (B, L); indices of the walked
    pixels followed by numbers from L on, (B, L) int32; the most stripes of an image, () int32, 0 where each has an
    empty side.
    """
    batch, _, length = sides.shape
    counts = ops.reduce_sum(sides, 2)
    walked = ops.where(counts[:, :1] <= counts[:, 1:], sides[:, 0], sides[:, 1])
    places = Tensor(np.tile(np.arange(length, dtype=np.int32), (batch, 1)))
    order, _ = ops.sort(places + ((1.0 - walked) * length).astype("int32"))
    most = ops.ReduceMax()(ops.minimum(counts[:, 0], counts[:, 1]))
    stripes = ops.ceil(most / _stripe_length(batch, length)).astype("int32")
    return walked, 1.0 - walked, order, stripes


def _pixels(order: Tensor, stripe: Tensor):
    """Indices of a stripe's pixels, (B, T) int32, and 1.0 where they count: stripes are filled up with others."""
    batch, length = order.shape
    height = _stripe_length(batch, length)
    pixels = ops.gather(order, Tensor(np.arange(height, dtype=np.int32)) + stripe * height, 1)
    valid = pixels < Tensor(length, mstype.int32)
    return ops.where(valid, pixels, pixels - length), valid.astype("float32")


def _stripe_length(batch: int, length: int) -> int:
    """T, pixels of an image that are compared at a time: more take memory, fewer take time.

    256 over the batch, but not below 48, whose scores take as much memory as 48 channels of the features; less on
    a small map, where a referent may be a dozen pixels.
    """
    most = 256 // batch if batch < 6 else 48
    return most if 12 * most < length else (length + 11) // 12


def _picked(z: Tensor, pixels: Tensor) -> Tensor:
    """Those of each image's vectors, (B, d, L) and (B, T) -> (B, d, T)."""
    return ops.gather(z, pixels, 2, 1)


def _maps(features: Tensor) -> Tensor:
    """(B, d, h, w) -> (B, d, L) float32."""
    batch, dim, height, width = features.shape
    return features.reshape(batch, dim, height * width).astype("float32")
