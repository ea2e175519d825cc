"""CoupAlign, one Cell a module of the paper."""

from coupalign.model.build import build_model
from coupalign.model.coup_align import CoupAlign

__all__ = ["CoupAlign", "build_model"]
