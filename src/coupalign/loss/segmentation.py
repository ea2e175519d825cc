"""Segmentation loss (paper, Eq 13)."""

from __future__ import annotations

from mindspore import Tensor, nn


class SegmentationLoss(nn.Cell):
    """Binary cross-entropy with logits, mean over pixels and over the batch.

    The printed formula has primes in some places only. It is read as the logit and the target of a pixel at the size
    of the image. Computing from logits avoids overflow.

    Inputs: logits (B, H, W); mask (B, H, W), 1 on the referent and 0 elsewhere. Outputs: scalar, float32.
    """

    def __init__(self):
        super().__init__()
        # No reduction here: in PyNative mode, its gradient is divided by the number of pixels of the first call.
        self.loss = nn.BCEWithLogitsLoss(reduction="none")

    def construct(self, logits: Tensor, mask: Tensor) -> Tensor:
        return self.loss(logits.astype("float32"), mask.astype("float32")).mean()
