"""Training of CoupAlign (paper, 4.1)."""

from coupalign.training.trainer import train

__all__ = ["train"]
