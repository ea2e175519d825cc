"""What each pixel is compared with: its side's prototype and the other side's pixels (paper, terms of Eq 14 and 15)."""
from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype

from src.model.layers import EPSILON

STRIPE = 256  # pixels at most that are compared with the map at a time: more take memory, fewer take time
EMPTY = -1e30  # logarithm of an empty sum, and what hides a score from a maximum
BOUND = 11.0  # scores no further from 0 have exponentials inside float16, in which some devices multiply float32


class Comparisons(nn.Cell):
    """``own_i = y_i . p / t`` and ``others_i = log sum_k exp(y_i . y_k / t)`` of every pixel i.

    p is the prototype of the pixel's side, the mean of its y; k runs over the other side. Pairs are never all held:
    image by image, the smaller side is walked in stripes of at most 256 pixels, and each stripe is compared with the
    whole map. That is min(P, N) (P + N) <= 2 P N products for P and N pixels, and one pass over them serves both
    sides. The gradient makes the products anew. Shapes are fixed, only the number of stripes depends on the mask:
    a loop of the graph, whose features and scores stay on the device.

    Maps stay (d, L) as they come, and are broadcast before they are multiplied: on the CPU, operators that transpose
    or broadcast by themselves are ten times slower, and each keeps several maps' memory for good.

    Args:
        temperature: t.
        normalize: whether y and p are scaled to length 1 (divided by 1e-6 where they are shorter).

    Inputs: features (B, d, h, w), any precision; sides (B, 2, L) float32 with L = hw, [:, 0] is 1 on the referent and
    [:, 1] on the background, else 0. There is no gradient by the sides.
    Outputs: own, others (B, L) float32; others is -1e30 where the other side has no pixel.
    """

    def __init__(self, temperature: float, normalize: bool):
        super().__init__()
        self.temperature = temperature
        self.normalize = normalize
        self.bounded = normalize and temperature * BOUND >= 1
        self.mm, self.mm_ta, self.mm_tb = ops.MatMul(), ops.MatMul(transpose_a=True), ops.MatMul(transpose_b=True)

    def construct(self, features: Tensor, sides: Tensor):
        batch, _, length = sides.shape
        own, others = ops.zeros((batch, length), mstype.float32), ops.zeros((batch, length), mstype.float32)
        image = Tensor(0, mstype.int32)
        while image < Tensor(batch, mstype.int32):
            side = ops.gather(sides, image, 0)
            y, _ = self._unit(_map(features, image))
            prototypes, _ = self._unit(self.mm_tb(y, _shares(side)))
            own = _put(own, image, ops.reduce_sum(self.mm_ta(prototypes, y) * side, 0) / self.temperature)
            others = _put(others, image, self._others(y, side))
            image = image + 1
        return own, others

    def bprop(self, features: Tensor, sides: Tensor, out: tuple, dout: tuple):
        gradient = ops.zeros_like(features)
        image = Tensor(0, mstype.int32)
        while image < Tensor(features.shape[0], mstype.int32):
            side = ops.gather(sides, image, 0)
            y, scale = self._unit(_map(features, image))
            shares = _shares(side)
            prototypes, prototype_scale = self._unit(self.mm_tb(y, shares))
            d_own = ops.broadcast_to(ops.gather(dout[0], image, 0) / self.temperature, side.shape) * side
            d_means = self._d_unit(prototypes, prototype_scale, self.mm_tb(y, d_own))
            dy = self._d_others(y, side, ops.gather(out[1], image, 0), ops.gather(dout[1], image, 0))
            dy = dy + self.mm(ops.concat((prototypes, d_means), 1), ops.concat((d_own, shares), 0))
            dx = self._d_unit(y, scale, dy).reshape(features.shape[1:])
            gradient = _put(gradient, image, dx.astype(features.dtype))
            image = image + 1
        return gradient, ops.zeros_like(sides)

    def _others(self, y: Tensor, side: Tensor) -> Tensor:
        """`others` of one image: y (d, L), side (2, L) -> (L,)."""
        length = y.shape[1]
        walked, faced, order, stripes = _plan(side)
        of_walked, of_faced = ops.zeros((length,), mstype.float32), ops.full((1, length), EMPTY, dtype=mstype.float32)
        stripe = Tensor(0, mstype.int32)
        while stripe < stripes:
            pixels, valid = _pixels(order, stripe)
            scores = self.mm_ta(ops.gather(y, pixels, 1) / self.temperature, y)
            of_stripe = self._log_sum(scores, ops.expand_dims(faced, 0), 1).reshape(-1)
            of_walked = ops.tensor_scatter_add(of_walked, ops.expand_dims(pixels, 1), of_stripe * valid)
            of_faced = ops.logaddexp(of_faced, self._log_sum(scores, ops.expand_dims(valid, 1), 0))
            stripe = stripe + 1
        return ops.where(walked > 0, of_walked, of_faced.reshape(-1))

    def _d_others(self, y: Tensor, side: Tensor, others: Tensor, d_others: Tensor) -> Tensor:
        """Gradient of `_others` by y, (d, L), from its output and the gradient by that, (L,)."""
        _, faced, order, stripes = _plan(side)
        dy = ops.zeros_like(y)
        stripe = Tensor(0, mstype.int32)
        while stripe < stripes:
            pixels, valid = _pixels(order, stripe)
            y_stripe = ops.gather(y, pixels, 1) / self.temperature
            d_scores = self._d_scores(self.mm_ta(y_stripe, y), valid, ops.gather(others, pixels, 0),
                                      ops.gather(d_others, pixels, 0), faced, others, d_others)
            dy = dy + self.mm(y_stripe, d_scores)
            d_stripe = self.mm_tb(y, d_scores) / self.temperature
            dy = ops.tensor_scatter_elements(dy, ops.broadcast_to(pixels, d_stripe.shape), d_stripe, 1, "add")
            stripe = stripe + 1
        return dy

    def _log_sum(self, scores: Tensor, counted: Tensor, axis: int) -> Tensor:
        """log sum exp of (T, L) over an axis, which is kept; of scores where `counted`, (1, L) or (T, 1), is 1."""
        if self.bounded:
            exponentials = ops.exp(scores)
            return ops.log(self.mm_tb(exponentials, counted) if axis == 1 else self.mm_ta(counted, exponentials))
        scores = scores + ops.broadcast_to((1.0 - counted) * EMPTY, scores.shape)
        largest = ops.amax(scores, axis, keepdims=True)
        exponentials = ops.exp(scores - ops.broadcast_to(largest, scores.shape))
        return largest + ops.log(exponentials.sum(axis=axis, keepdims=True))

    def _d_scores(self, scores: Tensor, valid: Tensor, row_sums: Tensor, d_row_sums: Tensor,
                  faced: Tensor, sums: Tensor, d_sums: Tensor) -> Tensor:
        """Gradient by the scores of a stripe, (T, L), each of which is in the sum of its row and of its column.

        The sums are logarithms; valid is (T,), faced (L,), 0 where a pixel's scores do not count.
        """
        if self.bounded:
            of_rows = ops.stack((d_row_sums * ops.exp(-row_sums) * valid, valid))
            of_columns = ops.stack((faced, d_sums * ops.exp(-sums) * faced))
            return ops.exp(scores) * self.mm_ta(of_rows, of_columns)
        # No score that counts exceeds its sums; the minimum keeps the others' exponentials finite.
        of_rows = ops.minimum(scores - ops.broadcast_to(ops.expand_dims(row_sums, 1), scores.shape), 0.0)
        of_columns = ops.minimum(scores - ops.broadcast_to(ops.expand_dims(sums, 0), scores.shape), 0.0)
        valid, faced = ops.expand_dims(valid, 0), ops.expand_dims(faced, 0)
        return (ops.exp(of_rows) * self.mm_ta(ops.expand_dims(d_row_sums, 0) * valid, faced)
                + ops.exp(of_columns) * self.mm_ta(valid, ops.expand_dims(d_sums, 0) * faced))

    def _unit(self, x: Tensor):
        """Vectors of length 1, (d, n), and what each of x was multiplied by, (1, n)."""
        if not self.normalize:
            return x, x
        square = self.mm(ops.ones((1, x.shape[0]), mstype.float32), x * x)
        scale = ops.rsqrt(ops.maximum(square, EPSILON ** 2))
        return x * ops.broadcast_to(scale, x.shape), scale

    def _d_unit(self, y: Tensor, scale: Tensor, dy: Tensor) -> Tensor:
        """Gradient of `_unit` by x from its output; vectors shorter than 1e-6 were divided by a constant."""
        if not self.normalize:
            return dy
        follows = (scale < Tensor(1 / EPSILON, mstype.float32)).astype("float32")
        along = self.mm(ops.ones((1, y.shape[0]), mstype.float32), y * dy) * follows
        return (dy - y * ops.broadcast_to(along, y.shape)) * ops.broadcast_to(scale, y.shape)


def _shares(side: Tensor) -> Tensor:
    """(2, L), 1 over the number of pixels of a side where it has them."""
    return side / ops.maximum(ops.reduce_sum(side, 1), 1.0).reshape(2, 1)


def _plan(side: Tensor):
    """How an image's (2, L) sides are walked.

    Returns: 1.0 on the smaller side, which is walked, and on the other, which it faces, (L,); indices of the walked
    pixels followed by numbers from L on, (L,) int32; number of stripes, () int32, 0 where a side is empty.
    """
    length = side.shape[1]
    counts = ops.reduce_sum(side, 1)
    walked = ops.where(counts[0] <= counts[1], side[0], side[1])
    order, _ = ops.sort(Tensor(np.arange(length, dtype=np.int32)) + ((1.0 - walked) * length).astype("int32"))
    stripes = ops.ceil(ops.minimum(counts[0], counts[1]) / _stripe_length(length)).astype("int32")
    return walked, 1.0 - walked, order, stripes


def _pixels(order: Tensor, stripe: Tensor):
    """Indices of a stripe's pixels, (T,) int32, and 1.0 where they count: the last stripe is filled up with others."""
    length = order.shape[0]
    height = _stripe_length(length)
    pixels = ops.gather(order, Tensor(np.arange(height, dtype=np.int32)) + stripe * height, 0)
    valid = pixels < Tensor(length, mstype.int32)
    return ops.where(valid, pixels, pixels - length), valid.astype("float32")


def _stripe_length(length: int) -> int:
    """Less on a small map, where a referent may be a dozen pixels."""
    return (length + 7) // 8 if length < 8 * STRIPE else STRIPE


def _map(batch: Tensor, image: Tensor) -> Tensor:
    """One image's features: (B, d, h, w) -> (d, L) float32."""
    return ops.gather(batch, image, 0).reshape(batch.shape[1], -1).astype("float32")


def _put(batch: Tensor, image: Tensor, value: Tensor) -> Tensor:
    """The batch with one image's value in its place."""
    return ops.tensor_scatter_update(batch, image.reshape(1, 1), ops.expand_dims(value, 0))
