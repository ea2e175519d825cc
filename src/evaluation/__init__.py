"""Metrics and evaluation. Importing this needs no MindSpore; ``src.evaluation.evaluate`` does."""
from src.evaluation.metric import SegmentationMetric

__all__ = ["SegmentationMetric"]
