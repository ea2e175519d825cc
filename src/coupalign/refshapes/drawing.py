"""Draws shapes, patterns and backgrounds of RefShapes in integers, so that no machine rounds differently."""

from __future__ import annotations

import numpy as np

from coupalign.refshapes.dice import Dice

COLOURS = {
    "red": (222, 36, 36),
    "orange": (246, 140, 20),
    "yellow": (246, 232, 48),
    "green": (40, 168, 56),
    "cyan": (60, 220, 232),
    "blue": (40, 72, 224),
    "purple": (150, 48, 190),
    "white": (246, 246, 246),
}
_BACKGROUNDS = ((128, 128, 128), (98, 108, 122), (160, 150, 132), (112, 120, 100), (134, 112, 98), (88, 86, 90))
_TONES = 8
_ROW = {"fill": 0, "mark": 3, "outline": 5}  # of the six rows of a colour: three fills, two marks, one outline

# Vertices on a disc of radius 1000, y down.
_TRIANGLE = ((0, -1000), (1000, 760), (-1000, 760))
_RIGHT = ((250, -345), (951, -309), (405, 132), (588, 809))
_STAR = ((0, -1000), *_RIGHT, (0, 427), *((-x, y) for x, y in reversed(_RIGHT)))
_HEART_TIP = ((-940, -150), (0, 950), (940, -150), (0, -420))


def palette() -> np.ndarray:
    """Returns (96, 3) uint8: eight tones of each background, then six rows of each colour."""
    tones = 6 * (np.arange(_TONES) - _TONES // 2)
    backgrounds = np.clip(np.array(_BACKGROUNDS)[:, None] + tones[:, None], 0, 255)
    colours = np.array([*COLOURS.values()])[:, None] * np.array([100, 96, 92, 34, 30, 16])[:, None] // 100
    return np.concatenate([backgrounds.reshape(-1, 3), colours.reshape(-1, 3)]).astype(np.uint8)


def background(height: int, width: int, dice: Dice) -> np.ndarray:
    """Draws a textured background: (H, W) uint8, rows of the palette."""
    cell = dice.pick((3, 6, 10, 16))
    coarse = dice.array(4, (height // cell + 1, width // cell + 1))
    coarse = coarse.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width]
    fine = dice.array(3, (height, width))
    across = np.arange(width) * dice.below(3) // (width - 1)
    tone = coarse + fine + across[None]
    return (dice.below(len(_BACKGROUNDS)) * _TONES + np.minimum(tone, _TONES - 1)).astype(np.uint8)


def shape_mask(shape: str, radius: int) -> np.ndarray:
    """Draws a shape of FACTORS: (2 radius, 2 radius) bool, centred in the square."""
    # Twice the distance of a pixel's centre from the middle: odd integers, so that shapes are symmetric.
    axis = 2 * np.arange(2 * radius, dtype=np.int64) + 1 - 2 * radius
    v, u = axis[:, None], axis[None]
    full = 2 * radius
    if shape == "circle":
        return u * u + v * v <= full * full
    if shape == "ring":
        square = 100 * (u * u + v * v)
        return (square <= 100 * full * full) & (square >= 16 * full * full)
    if shape == "square":
        return (abs(u) * 100 <= 88 * full) & (abs(v) * 100 <= 88 * full)
    if shape == "diamond":
        return 100 * abs(u) + 80 * abs(v) <= 80 * full
    if shape == "cross":
        thin, long = 36 * full, 100 * full
        return ((abs(u) * 100 <= thin) & (abs(v) * 100 <= long)) | ((abs(v) * 100 <= thin) & (abs(u) * 100 <= long))
    if shape == "triangle":
        return _polygon(u, v, full, _TRIANGLE)
    if shape == "star":
        return _polygon(u, v, full, _STAR)
    lobe = (100 * abs(u) - 48 * full) ** 2 + (100 * v + 40 * full) ** 2 <= (54 * full) ** 2  # of a heart
    return lobe | _polygon(u, v, full, _HEART_TIP)


def paint(mask: np.ndarray, colour: str, pattern: str, slant: int, dice: Dice) -> np.ndarray:
    """Draws the inside of a shape: (h, w) uint8, rows of the palette; only pixels of `mask` (h, w) are valid.

    Args:
        slant: Direction of stripes: 0 along the rows, 1 along the columns, 2 and 3 along the diagonals.
    """
    size = len(mask)
    first = len(_BACKGROUNDS) * _TONES + list(COLOURS).index(colour) * 6
    fill = first + _ROW["fill"] + dice.array(3, mask.shape)
    # Measured from the middle, so that a kind looks the same at every place.
    y, x = np.ogrid[-(size // 2) : size - size // 2, -(size // 2) : size - size // 2]
    small = size < 28
    if pattern == "striped":
        half = 3 if small else 4
        marked = ((y + 0 * x, x + 0 * y, x + y, x - y)[slant] + half // 2) % (2 * half) < half
    elif pattern == "dotted":
        dot, period = (3, 7) if small else (4, 9)
        marked = ((y + dot // 2) % period < dot) & ((x + dot // 2) % period < dot)
    else:
        marked = np.zeros_like(mask)
    inside = np.pad(mask, 1)
    inner = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    fill = np.where(marked, first + _ROW["mark"] + dice.array(2, mask.shape), fill)
    return np.where(inner, fill, first + _ROW["outline"]).astype(np.uint8)


def _polygon(u: np.ndarray, v: np.ndarray, full: int, vertices: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Even-odd rule: a point is inside if a ray from it crosses the outline an odd number of times."""
    inside = np.zeros(np.broadcast(u, v).shape, bool)
    u, v = 1000 * u, 1000 * v
    for (x1, y1), (x2, y2) in zip(vertices, vertices[1:] + vertices[:1], strict=True):
        x1, y1, x2, y2 = x1 * full, y1 * full, x2 * full, y2 * full
        spans = (y1 > v) != (y2 > v)
        side = (u - x1) * (y2 - y1) - (v - y1) * (x2 - x1)
        inside ^= spans & ((side < 0) if y2 > y1 else (side > 0))
    return inside
