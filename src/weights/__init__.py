"""From checkpoints that people download to one to start from."""
from src.weights.convert import convert

__all__ = ["convert"]
