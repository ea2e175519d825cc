"""Training of CoupAlign (paper, 4.1)."""

from coupalign.training.trainer import Trainer, train

__all__ = ["Trainer", "train"]
