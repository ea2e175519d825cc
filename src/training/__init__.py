"""Training of CoupAlign (paper, 4.1)."""
from src.training.trainer import train

__all__ = ["train"]
