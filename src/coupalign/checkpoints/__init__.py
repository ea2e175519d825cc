"""From checkpoints that people download to one to start from."""

from coupalign.checkpoints.convert import convert

__all__ = ["convert"]
