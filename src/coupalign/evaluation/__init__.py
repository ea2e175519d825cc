"""Metrics and evaluation. Importing this needs no MindSpore; ``coupalign.evaluation.evaluate`` does."""

from coupalign.evaluation.metric import GeneralisedMetric, SegmentationMetric

__all__ = ["GeneralisedMetric", "SegmentationMetric"]
