"""Segmentation loss (paper, Eq 13)."""

from __future__ import annotations

from mindspore import Tensor, nn


class SegmentationLoss(nn.Cell):
    """Binary cross-entropy of every pixel, mean over pixels and over the batch.

    The printed formula has primes in some places only; it is read as the logit at the image's size and its target
    throughout, and computed from logits, so that no large one overflows.

    Inputs: logits (B, H, W); mask (B, H, W), 1 on the referent and 0 elsewhere. Outputs: scalar, float32.
    """

    def __init__(self):
        super().__init__()
        # Without a mean of its own: PyNative mode divides that one's gradient by the number of pixels it saw first.
        self.loss = nn.BCEWithLogitsLoss(reduction="none")

    def construct(self, logits: Tensor, mask: Tensor) -> Tensor:
        return self.loss(logits.astype("float32"), mask.astype("float32")).mean()
