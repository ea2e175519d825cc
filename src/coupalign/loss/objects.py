"""Set prediction: every annotated object of an image has its own mask proposal (Carion et al., DETR, ECCV 2020)."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops

from coupalign.loss.contrastive import nearest

TAKEN = 1e4  # added to the cost of pairs that can no longer be matched


class ObjectLoss(nn.Cell):
    """Matches each object with one proposal and compares their masks; also the cross entropy of Q_w with the targets'.

    The cost of a pair is the loss of its masks, mean binary cross entropy plus Dice, plus the distance of the
    proposal's anchor from the object's centre. Pairs are taken by lowest cost first, in the graph. Proposals without an
    object are free. Q_w should be spread evenly over the proposals of the targets; its loss is 0 for an empty mask.

    Args:
        anchors: Point (y, x) of each proposal, 0 to 1, (N, 2).
        weight: Factor of the loss of the masks.
        choice_weight: Factor of the cross entropy.

    Inputs: proposals Y_N (B, N, h, w), logits; weights Q_w (B, N); objects (B, K, h, w), 0 or 1, empty for none; mask
    of the targets (B, H, W), their union, 0 or 1. Outputs: the weighted sum of both losses; the loss of the masks; the
    cross entropy of Q_w, 0 where no object or set has an IoU above 0.5 with the mask; float32 scalars.
    """

    def __init__(self, anchors: np.ndarray, weight: float, choice_weight: float):
        super().__init__()
        self.anchors = Tensor(anchors.astype(np.float32))
        self.weight, self.choice_weight = weight, choice_weight

    def construct(self, proposals: Tensor, weights: Tensor, objects: Tensor, mask: Tensor):
        batch, count, height, width = proposals.shape
        logits = proposals.astype("float32").reshape(batch, count, -1)
        targets = objects.astype("float32").reshape(batch, objects.shape[1], -1)
        areas = targets.sum(-1)
        exists = (areas > 0).astype("float32")
        costs = ops.stop_gradient(self._costs(logits, targets, areas, height, width))
        matched = self._match(costs, exists)  # (B, K, N)
        found = ops.matmul(matched, logits)  # (B, K, P)
        probability = ops.sigmoid(found)
        error = (ops.softplus(found) - found * targets).mean(-1)
        dice = 1 - (2 * (probability * targets).sum(-1) + 1) / (probability.sum(-1) + areas + 1)
        pairs = matched.sum(2)
        masks = ((error + dice) * pairs).sum() / ops.maximum(pairs.sum(), 1.0)
        named = ops.expand_dims(self._named(targets, areas, nearest(mask, height, width)), 1)
        wanted = ops.matmul(named, matched).squeeze(1)  # (B, N), 1 for each proposal of a target
        wanted = wanted / ops.maximum(wanted.sum(1, keepdims=True), 1.0)
        choice = -(wanted * ops.log(weights + 1e-9)).sum(1).mean()
        return self.weight * masks + self.choice_weight * choice, masks, choice

    def _named(self, targets: Tensor, areas: Tensor, mask: Tensor) -> Tensor:
        """1.0 for each object that is a target, (B, K).

        It is the object of the largest IoU with the mask, or all objects that lie in the mask by more than half if
        together they fit it better; nothing if that IoU is not above 0.5.
        """
        referent = mask.reshape(mask.shape[0], -1, 1)
        shared = ops.matmul(targets, referent).squeeze(-1)
        iou = shared / ops.maximum(areas + referent.sum(1) - shared, 1.0)
        best = ops.one_hot(ops.argmax(iou, 1).astype("int32"), iou.shape[1], 1.0, 0.0)
        inside = (shared > 0.5 * areas).astype("float32")
        union = ops.minimum(ops.matmul(ops.expand_dims(inside, 1), targets), 1.0)  # (B, 1, P)
        both = ops.matmul(union, referent).squeeze(-1)  # (B, 1)
        union_iou = both / ops.maximum(union.sum(-1) + referent.sum(1) - both, 1.0)
        best_iou = (iou * best).sum(1, keepdims=True)
        together = (union_iou > best_iou).astype("float32")
        named = together * inside + (1 - together) * best
        return named * (ops.maximum(union_iou, best_iou) > 0.5).astype("float32")

    def _costs(self, logits: Tensor, targets: Tensor, areas: Tensor, height: int, width: int) -> Tensor:
        """Cost of each object with each proposal, (B, K, N)."""
        probability = ops.sigmoid(logits)
        inside = ops.matmul(targets, logits.swapaxes(1, 2)) / logits.shape[2]
        error = ops.expand_dims(ops.softplus(logits).mean(-1), 1) - inside
        overlap = ops.matmul(targets, probability.swapaxes(1, 2))
        dice = 1 - (2 * overlap + 1) / (ops.expand_dims(probability.sum(-1), 1) + ops.expand_dims(areas, 2) + 1)
        y, x = np.divmod(np.arange(height * width), width)
        places = Tensor((np.stack([y / height + 0.5 / height, x / width + 0.5 / width], 1)).astype(np.float32))
        centres = ops.matmul(targets, places) / ops.expand_dims(ops.maximum(areas, 1.0), 2)  # (B, K, 2)
        # While proposals are alike, the distance alone decides, so that each soon has a region of its own.
        distance = ops.abs(ops.expand_dims(centres, 2) - self.anchors).sum(-1)
        return error + dice + distance

    def _match(self, costs: Tensor, exists: Tensor) -> Tensor:
        """1.0 where object and proposal belong together, (B, K, N); costs are far below TAKEN."""
        batch, objects, count = costs.shape
        costs = costs + ops.expand_dims(1 - exists, 2) * TAKEN
        matched = ops.zeros_like(costs)
        for _ in range(objects):
            cheapest = ops.argmin(costs.reshape(batch, -1), 1).astype("int32")
            best = ops.one_hot(cheapest, objects * count, 1.0, 0.0)
            best = best.reshape(batch, objects, count)
            best = best * (costs < TAKEN).astype("float32")  # 0 if no pair is left
            matched = matched + best
            taken = best.sum(1, keepdims=True) + best.sum(2, keepdims=True)
            costs = costs + ops.minimum(taken, 1.0) * TAKEN
        return matched
