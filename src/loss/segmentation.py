"""Segmentation loss (paper, Eq 13)."""
from __future__ import annotations

from mindspore import Tensor, nn


class SegmentationLoss(nn.Cell):
    """Binary cross-entropy of every pixel, mean over pixels and over the batch.

    The printed formula takes the sigmoid of a mean of two index styles; it is read as ``sigmoid(m'_i)`` throughout,
    and computed from logits, so that no large logit overflows.

    Inputs: logits (B, H, W); mask (B, H, W), 1 on the referent and 0 elsewhere. Outputs: scalar, float32.
    """

    def __init__(self):
        super().__init__()
        self.loss = nn.BCEWithLogitsLoss()

    def construct(self, logits: Tensor, mask: Tensor) -> Tensor:
        return self.loss(logits.astype("float32"), mask.astype("float32"))
