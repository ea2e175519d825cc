"""Maps of shares in colours over an image, and the scale of the colours."""

from __future__ import annotations

import cv2
import matplotlib
import numpy as np

from coupalign.visual.page import INK, MUTED, Page

COLOURS = matplotlib.colormaps["OrRd"]
_SHADE = 0.3  # how much the image darkens the colours, which have to stay those of the scale


def heat(rgb: np.ndarray, shares: np.ndarray, most: float) -> np.ndarray:
    """A map (h, w) in colours from 0 to `most`, its cells as squares, at the size of `rgb` (H, W, 3), shaded by it."""
    shares = cv2.resize(shares, rgb.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None] / 255
    return (_colours(shares / most) * (1 - _SHADE + _SHADE * grey)).round().astype(np.uint8)


def draw_scale(page: Page, x: float, y: float, width: float, most: str, notch: float | None = None) -> None:
    """A bar of the colours from 0 to the number `most`, with a mark at the share `notch` of it."""
    ramp = np.linspace(0, 1, round(width))[None].repeat(10, 0)
    page.picture(x, y, _colours(ramp).round().astype(np.uint8))
    if notch is not None:
        page.box(x + notch * width - 1, y + 8, 2, 6, INK)
    page.text(x, y + 24, "0", 12, MUTED)
    page.text(x + width, y + 24, most, 12, MUTED, align="right")


def _colours(values: np.ndarray) -> np.ndarray:
    """Values from 0 to 1 as RGB from 0 to 255, float."""
    return COLOURS(np.clip(values, 0, 1))[..., :3] * 255
