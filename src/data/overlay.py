"""Masks drawn on images, and written to files."""
from __future__ import annotations

import os

import cv2
import numpy as np

from src.files import atomic_path

COLOUR = (255, 64, 32)  # RGB
OPACITY = 0.5


def overlay(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`rgb` (H, W, 3) uint8 with the pixels of `mask` (H, W) bool tinted, and outlined within; uint8 (H, W, 3)."""
    drawn = rgb.copy()
    drawn[mask] = (rgb[mask] * (1 - OPACITY) + np.array(COLOUR) * OPACITY).round().astype(np.uint8)
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    drawn[mask & (inner == 0)] = COLOUR
    return drawn


def write_png(path: str | os.PathLike, pixels: np.ndarray) -> None:
    """Writes a bool mask (H, W) as 0 and 255, or RGB (H, W, 3) uint8, as PNG, atomically."""
    pixels = pixels.astype(np.uint8) * 255 if pixels.dtype == bool else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    with atomic_path(path) as temporary:
        temporary.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
