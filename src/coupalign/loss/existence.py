"""Loss of the existence output (generalised referring segmentation; not in the paper)."""

from __future__ import annotations

from mindspore import Tensor, nn, ops


class ExistenceLoss(nn.Cell):
    """Binary cross-entropy of the existence logit with "the mask has a pixel of a target", mean over the batch.

    Inputs: logit (B,); mask (B, H, W), 0 or 1, all 0 if nothing fits the expression. Outputs: scalar, float32.
    """

    def __init__(self):
        super().__init__()
        self.loss = nn.BCEWithLogitsLoss(reduction="none")

    def construct(self, logit: Tensor, mask: Tensor) -> Tensor:
        exists = (ops.amax(mask, (1, 2)) > 0.5).astype("float32")
        return self.loss(logit.astype("float32"), exists).mean()
