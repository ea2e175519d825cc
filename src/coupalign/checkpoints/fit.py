"""Position tables resized for another image size, window size or text length."""

from __future__ import annotations

import math

import cv2
import numpy as np


def fit(name: str, value: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, str] | None:
    """The value of a parameter in the shape that the model has, and what was done ("" for nothing); None if none fits.

    Relative position biases and the position embedding of the cross attention are resized bicubically, as is usual
    for Swin. Of BERT's positions the first are kept.
    """
    if value.shape == shape:
        return value, ""
    if value.ndim != len(shape):
        return None
    if name.endswith("relative_position_bias_table") and value.shape[1] == shape[1]:
        # (2 window - 1)^2 rows, so their root is odd.
        return _resize(value, shape) if len(value) % 2 else None
    if name.endswith("position_embedding") and (value.shape[0], value.shape[2]) == (1, shape[2]):
        resized = _resize(value[0], shape[1:])
        return resized and (resized[0][None], resized[1])
    if name.endswith("position_embeddings.embedding_table") and value.shape[1] == shape[1] and len(value) > shape[0]:
        return value[: shape[0]], f"the first {shape[0]} of {len(value)} positions"
    return None


def _resize(grid: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, str] | None:
    """Rows of a square map (n * n, C), resized to shape (m * m, C); None if either is not square."""
    old, new = math.isqrt(len(grid)), math.isqrt(shape[0])
    if old**2 != len(grid) or new**2 != shape[0] or old == 0:
        return None
    # Half-pixel centres, clamped edges and a = -0.75, as interpolate(mode="bicubic", align_corners=False) of PyTorch.
    planes = grid.reshape(old, old, -1).astype(np.float64).transpose(2, 0, 1)
    resized = np.stack([cv2.resize(plane, (new, new), interpolation=cv2.INTER_CUBIC) for plane in planes], -1)
    return resized.reshape(shape).astype(np.float32), f"resized from {old}x{old} to {new}x{new}"
