"""CoupAlign, one Cell a module of the paper."""
from src.model.build import build_model
from src.model.coup_align import CoupAlign

__all__ = ["CoupAlign", "build_model"]
