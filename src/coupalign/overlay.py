"""Drawing of masks on images."""

from __future__ import annotations

import os

import cv2
import numpy as np

from coupalign.files import atomic_path

COLOUR = (255, 64, 32)  # RGB
OPACITY = 0.5
_BACKGROUND = (175, 0.3)  # offset and factor: grey values 0 to 255 become 175 to 251


def overlay(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns `rgb` (H, W, 3) uint8 with the pixels of `mask` (H, W) bool tinted and its inner outline drawn."""
    drawn = rgb.copy()
    drawn[mask] = (rgb[mask] * (1 - OPACITY) + np.array(COLOUR) * OPACITY).round().astype(np.uint8)
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=[0])
    drawn[mask & (inner == 0)] = COLOUR
    return drawn


def spotlight(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns `rgb` with the pixels outside `mask` pale grey and its outer outline drawn.

    The object keeps its colours, because expressions refer to them.
    """
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None]
    drawn = np.where(mask[..., None], rgb, (_BACKGROUND[0] + _BACKGROUND[1] * grey).round().astype(np.uint8))
    outer = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8))
    drawn[(outer > 0) & ~mask] = COLOUR
    return drawn


def write_png(path: str | os.PathLike, pixels: np.ndarray) -> None:
    """Writes a bool mask (H, W) as 0 and 255, or RGB (H, W, 3) uint8, as PNG, atomically."""
    pixels = pixels.astype(np.uint8) * 255 if pixels.dtype == bool else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    with atomic_path(path) as temporary:
        temporary.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
