"""Metrics and evaluation. Importing this needs no MindSpore; ``coupalign.evaluation.evaluate`` does."""

from coupalign.evaluation.metric import SegmentationMetric

__all__ = ["SegmentationMetric"]
