"""The negatives of the contrastive loss, tile by tile (paper, the sums over k in Eq 14 and 15)."""

from __future__ import annotations

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops

from coupalign import devices

EMPTY = -1e30  # logarithm of an empty sum; also masks scores
MIN_SUM = 1e-30  # least sum before its logarithm; sums of exponentials that are not empty are larger
MAX_SCORE = 11.0  # exponentials of scores up to this size fit into float16, in which some devices multiply float32


class NegativeTerms(nn.Cell):
    """``log sum_k exp(y_i . y_k)`` for each pixel i, where k runs over the pixels of the other side.

    The pixels of the smaller side are the anchors, all others the negatives. A tile holds the scores of some anchors
    with the whole map; its rows serve the sums of the anchors, its columns those of the negatives. That is
    ``min(P, N) (P + N)`` scores instead of ``(P + N)^2``, in memory that grows with the map only. The gradient computes
    the scores again. Images share the loop over tiles, so each takes as many as the one that needs most.

    Args:
        max_score: Bound on the magnitude of the scores; None if there is none. Below ``MAX_SCORE``, exponentials are
            summed without a maximum, which is exact and faster.
        tile: Anchors of a tile; by default ``devices.default_tile``.

    Inputs: y (B, d, L) float32, already divided by the root of the temperature; referent (B, L) float32, 1 on the
    referent and 0 elsewhere, without gradient.
    Outputs: (B, L) float32, at most -69 for pixels whose other side is empty.
    """

    def __init__(self, max_score: float | None, tile: int | None):
        super().__init__()
        self.bounded = max_score is not None and max_score <= MAX_SCORE
        self.tile = tile
        self.on_cpu = devices.on_cpu()
        self.over_anchors, self.over_negatives = devices.WeightedSum(axis=1), devices.WeightedSum(axis=2)
        self.mm = ops.BatchMatMul()
        self.mm_ta, self.mm_tb = ops.BatchMatMul(transpose_a=True), ops.BatchMatMul(transpose_b=True)

    def construct(self, y: Tensor, referent: Tensor) -> Tensor:
        batch, _, length = y.shape
        anchors, negatives, order, tiles = self._plan(referent)
        of_anchors = ops.zeros((batch, length), mindspore.float32)
        of_negatives = ops.full((batch, length), 0.0 if self.bounded else EMPTY, dtype=mindspore.float32)
        tile = Tensor(0, mindspore.int32)
        while tile < tiles:
            index, valid = self._tile(order, tile)
            by_anchor, by_negative = self._sums(self.mm_ta(ops.gather(y, index, 2, 1), y), valid, negatives)
            # Ascend only has the reduction "none". It suffices because indices are distinct and no anchor is in two
            # tiles; other pixels, which fill up the last tile, are not read. (ops.scatter of MindSpore 2.9 is wrong in
            # PyNative mode once a graph has used it.)
            of_anchors = ops.tensor_scatter_elements(of_anchors, index, by_anchor, 1, "none")
            of_negatives = of_negatives + by_negative if self.bounded else ops.logaddexp(of_negatives, by_negative)
            tile = tile + 1
        sums = ops.where(anchors > 0, of_anchors, of_negatives)
        return ops.log(ops.maximum(sums, MIN_SUM)) if self.bounded else sums

    def bprop(self, y: Tensor, referent: Tensor, out: Tensor, dout: Tensor):
        """Gradient (B, L) of the output -> gradient of y."""
        _, negatives, order, tiles = self._plan(referent)
        dy = ops.zeros_like(y)
        tile = Tensor(0, mindspore.int32)
        while tile < tiles:
            index, valid = self._tile(order, tile)
            y_tile = ops.gather(y, index, 2, 1)
            d_scores = self._d_scores(self.mm_ta(y_tile, y), index, valid, negatives, out, dout)
            dy = dy + self.mm(y_tile, d_scores)
            places = ops.broadcast_to(ops.expand_dims(index, 1), y_tile.shape)
            d_tile = ops.gather(dy, index, 2, 1) + self.mm_tb(y, d_scores)
            dy = ops.tensor_scatter_elements(dy, places, d_tile, 2, "none")
            tile = tile + 1
        return dy, ops.zeros_like(referent)

    def _sums(self, scores: Tensor, valid: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of a tile's exponentials over negatives, (B, T), and over valid anchors, (B, L).

        Their logarithms, unless scores are bounded.
        """
        if not self.bounded:
            return (
                ops.logsumexp(scores + ops.expand_dims((1.0 - negatives) * EMPTY, 1), 2),
                ops.logsumexp(scores + ops.expand_dims((1.0 - valid) * EMPTY, 2), 1),
            )
        exponentials = ops.exp(scores)
        return self.over_negatives(exponentials, negatives), self.over_anchors(exponentials, valid)

    def _d_scores(
        self, scores: Tensor, index: Tensor, valid: Tensor, negatives: Tensor, log_sums: Tensor, d_log_sums: Tensor
    ) -> Tensor:
        """Gradient of a tile's scores (B, T, L). Each is in the sum of its anchor and in that of its negative:
        ``exp(s - log_sum_anchor) d_anchor + exp(s - log_sum_negative) d_negative``.
        """
        if self.bounded:
            rates = d_log_sums * ops.exp(-log_sums)
            left = ops.stack((ops.gather_elements(rates, 1, index) * valid, valid), 1)
            return ops.exp(scores) * self.mm_ta(left, ops.stack((negatives, rates * negatives), 1))
        of_anchors = ops.expand_dims(ops.gather_elements(log_sums, 1, index), 2)
        d_anchors = ops.expand_dims(ops.gather_elements(d_log_sums, 1, index), 2)
        # No score of an anchor and a negative exceeds their sums; the minimum keeps exponentials of others finite.
        by_anchor = ops.exp(ops.minimum(scores - of_anchors, 0.0)) * d_anchors
        by_negative = ops.exp(ops.minimum(scores - ops.expand_dims(log_sums, 1), 0.0)) * ops.expand_dims(d_log_sums, 1)
        return (by_anchor + by_negative) * ops.expand_dims(valid, 2) * ops.expand_dims(negatives, 1)

    def _plan(self, referent: Tensor):
        """1.0 on anchors and on negatives, (B, L); order of pixels (B, L) int32; number of tiles, () int32.

        The order has the anchors first; the others follow with L added to their index.
        """
        batch, length = referent.shape
        positives = ops.reduce_sum(referent, 1)
        anchors = ops.where(ops.expand_dims(positives <= length - positives, 1), referent, 1.0 - referent)
        # Places in the order are counted and scattered, because sorting float32 may lose accuracy on Ascend, and
        # sorting int32 is slow there. Float32 counts exactly up to 2^24. Every place is overwritten.
        pixels = Tensor(np.arange(length, dtype=np.float32))
        counts = ops.CumSum()(anchors, 1)  # anchors up to each pixel
        places = ops.where(anchors > 0, counts - 1.0, counts[:, -1:] + pixels - counts)
        numbers = pixels + (1.0 - anchors) * length
        order = ops.tensor_scatter_elements(numbers, places.astype("int32"), numbers, 1, "none")
        most = ops.ReduceMax()(ops.minimum(positives, length - positives))
        tiles = ops.ceil(most / _tile_length(batch, length, self.on_cpu, self.tile)).astype("int32")
        return anchors, 1.0 - anchors, order.astype("int32"), tiles

    def _tile(self, order: Tensor, tile: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of a tile's pixels (B, T) int32, and 1.0 if they are anchors; others fill up the last tile."""
        batch, length = order.shape
        height = _tile_length(batch, length, self.on_cpu, self.tile)
        index = ops.gather(order, Tensor(np.arange(height, dtype=np.int32)) + tile * height, 1)
        valid = index < Tensor(length, mindspore.int32)
        return ops.where(valid, index, index - length), valid.astype("float32")


@ops.constexpr
def _tile_length(batch: int, length: int, on_cpu: bool, tile: int | None) -> int:
    return devices.default_tile(batch, length, on_cpu) if tile is None else min(tile, -(-length // 2))
