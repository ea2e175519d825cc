"""CoupAlign (NeurIPS 2022) on MindSpore: the mask of the object that an expression refers to.

``load_config``, ``build_model`` and ``Predictor`` load on first use, so that ``import coupalign`` does not import
MindSpore.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coupalign.config import load_config
    from coupalign.inference.predictor import Predictor
    from coupalign.model import build_model

__version__ = "0.2.0"
__all__ = ["Predictor", "build_model", "load_config"]

_MODULES = {
    "Predictor": "coupalign.inference.predictor",
    "build_model": "coupalign.model",
    "load_config": "coupalign.config",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
