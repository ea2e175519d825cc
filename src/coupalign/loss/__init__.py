"""Losses of CoupAlign (paper, 3.4)."""

from coupalign.loss.contrastive import PixelContrastiveLoss
from coupalign.loss.segmentation import SegmentationLoss

__all__ = ["PixelContrastiveLoss", "SegmentationLoss"]
