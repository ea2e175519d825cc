"""Losses of CoupAlign (paper, 3.4)."""
from src.loss.contrastive import PixelContrastiveLoss
from src.loss.segmentation import SegmentationLoss

__all__ = ["PixelContrastiveLoss", "SegmentationLoss"]
