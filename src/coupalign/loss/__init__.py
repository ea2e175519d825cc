"""Losses of CoupAlign (paper, 3.4).

Eq 13 segmentation.py; Eq 14 to 16 contrastive.py, whose negatives are in negatives.py; ours are set prediction,
objects.py, and existence.py; Eq 17 is ``Objective`` in coupalign.training.step.
"""

from coupalign.loss.contrastive import PixelContrastiveLoss
from coupalign.loss.existence import ExistenceLoss
from coupalign.loss.objects import ObjectLoss
from coupalign.loss.segmentation import SegmentationLoss

__all__ = ["ExistenceLoss", "ObjectLoss", "PixelContrastiveLoss", "SegmentationLoss"]
