"""Sine encodings of places, and anchor points of the queries."""

from __future__ import annotations

import numpy as np

CYCLES = (0.25, 4.0)  # lowest and highest frequency, in cycles across the image
_PLASTIC = 1.32471795724474602596  # root of x^3 = x + 1


def grid_points(size: int) -> np.ndarray:
    """Centres (y, x) of the cells of a square map in raster order, 0 to 1: (size^2, 2) float64."""
    y, x = np.divmod(np.arange(size**2), size)
    return (np.stack([y, x], 1) + 0.5) / size


def anchor_points(count: int) -> np.ndarray:
    """Points (y, x) that cover the image evenly for any number of them, 0 to 1: (count, 2) float64.

    They are the first of the R2 sequence (Roberts, 2018).
    """
    steps = 1 / _PLASTIC ** np.arange(1, 3)
    return (0.5 + np.arange(1, count + 1)[:, None] * steps) % 1


def sine_encoding(points: np.ndarray, dim: int, heads: int = 1) -> np.ndarray:
    """Encodes points (P, 2), 0 to 1, as sines and cosines of both coordinates: (P, dim) float32 of RMS 1.

    Each of `heads` consecutive blocks of channels holds low and high frequencies of both coordinates, so that every
    attention head can measure distances. `dim` is a multiple of 4; channels that are not a multiple of 4 heads are 0.
    """
    count = dim // (4 * heads) * heads  # frequencies
    cycles = CYCLES[0] * (CYCLES[1] / CYCLES[0]) ** (np.arange(count) / max(count - 1, 1))
    angles = 2 * np.pi * points[:, None, :] * cycles[None, :, None]  # (P, count, 2)
    waves = np.sqrt(2) * np.stack([np.sin(angles), np.cos(angles)], -1).reshape(len(points), -1, heads, 4)
    waves = waves.swapaxes(1, 2).reshape(len(points), heads, -1)
    encoding = np.zeros((len(points), heads, dim // heads))
    encoding[..., : waves.shape[-1]] = waves
    return encoding.reshape(len(points), dim).astype(np.float32)
