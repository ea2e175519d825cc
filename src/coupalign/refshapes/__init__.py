"""RefShapes: a synthetic data set for referring image segmentation, generated from a seed."""

from __future__ import annotations

from coupalign.refshapes.writer import RefShapesSettings, write_refshapes

__all__ = ["RefShapesSettings", "write_refshapes"]
