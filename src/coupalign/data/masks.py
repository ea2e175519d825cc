"""Masks from the annotations of COCO and REFER, and from files."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image as Pillow
from pycocotools import mask as coco

from coupalign.errors import UserError

# What pycocotools is given is bounded, because it trusts it: beyond these it would overflow, or reserve gigabytes.
_MOST_PIXELS = 1 << 27
_FARTHEST = 1e5
_LONGEST_OUTLINE = 1e6


def annotation_mask(annotation: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """The pixels of an annotation: (height, width) bool.

    A segmentation is a list of polygons [x1, y1, x2, y2, …], run lengths (compressed, or plain as COCO writes
    crowds), a list of run lengths (ReferIt), or {"png": path} where every pixel that is not 0 belongs to the mask.
    Parts are united: a pixel where polygons overlap belongs to the mask. What lies beyond the image is cut off, and
    polygons with fewer than three points have no inside and are left out.

    Args:
        annotation: has segmentation, and id or, for messages, name.

    Raises: UserError that names the annotation, if it is no mask, does not fit the image, or has not one pixel in it.
    """
    where = annotation.get("name") or f"annotation {annotation.get('id')}"
    segmentation = annotation.get("segmentation")
    if height * width > _MOST_PIXELS:
        raise UserError(
            f"{where} is on an image of {height} x {width} pixels, more than {_MOST_PIXELS:,}: make the image smaller"
        )
    if isinstance(segmentation, Mapping) and "png" in segmentation:
        mask = _from_png(segmentation["png"], height, width, where)
    else:
        parts = [segmentation] if isinstance(segmentation, Mapping) else segmentation
        if not isinstance(parts, list):
            raise UserError(f"{where} has no segmentation: take the file that the data set came with")
        mask = np.zeros((height, width), bool)
        for part in parts:
            try:
                mask |= (
                    _from_runs(part, height, width, where)
                    if isinstance(part, Mapping)
                    else _from_polygon(part, height, width)
                )
            except (KeyError, OverflowError, TypeError, ValueError) as error:
                raise UserError(
                    f"{where} has a segmentation that is neither polygons nor run lengths"
                    f"{f' ({error})' * bool(str(error))}: take the file that the data set came with, or "
                    "leave out its referents"
                ) from error
    if not mask.any():
        raise UserError(f"{where} covers no pixel of its image: mend its mask, or leave out its referents")
    return mask


def packed(segmentation: Any) -> Any:
    """A segmentation with its lists of numbers as arrays, a quarter of the size; what is none is left as it is."""
    if isinstance(segmentation, list):
        return [packed(part) if isinstance(part, Mapping) else _as_array("d", part) for part in segmentation]
    if isinstance(segmentation, Mapping) and "counts" in segmentation:
        return {**segmentation, "counts": _as_array("q", segmentation["counts"])}
    return segmentation


def _as_array(kind: str, numbers: Any) -> Any:
    try:
        return array(kind, numbers) if isinstance(numbers, list) else numbers
    except (TypeError, OverflowError):
        return numbers


def _from_polygon(numbers: Any, height: int, width: int) -> np.ndarray | bool:
    if not isinstance(numbers, (list, array)):
        raise TypeError
    points = np.array(numbers, np.float64)
    # pycocotools would leave out a number that is over, and read four as a box.
    if points.ndim != 1 or points.size % 2:
        raise ValueError("an odd number of coordinates")
    if points.size < 6:
        return False
    if not np.all(np.abs(points) < _FARTHEST):
        raise ValueError("a point that is nowhere near an image")
    outline = points.reshape(-1, 2)
    if np.abs(outline - np.roll(outline, 1, axis=0)).sum() > _LONGEST_OUTLINE:
        raise ValueError("an outline longer than any object's")
    return coco.decode(coco.frPyObjects([points], height, width)[0]).astype(bool)


def _from_runs(part: Mapping[str, Any], height: int, width: int, where: str) -> np.ndarray:
    """Decoded here, because pycocotools reads beyond the end of run lengths that are damaged."""
    size, counts = list(part["size"]), part["counts"]
    if size != [height, width]:
        raise UserError(
            f"{where} is {' x '.join(map(str, size[:2]))} pixels (height x width), its image {height} x "
            f"{width}: the annotations belong to other images"
        )
    if isinstance(counts, str):
        counts = counts.encode("ascii")
    runs = _decompressed(counts) if isinstance(counts, bytes) else np.array(counts, np.int64)
    if runs.ndim != 1 or (runs < 0).any() or runs.sum() != height * width:
        raise ValueError("run lengths that do not fill the image")
    # Down the columns, background first.
    return np.repeat(np.arange(runs.size) % 2 == 1, runs).reshape(width, height).T


def _decompressed(code: bytes) -> np.ndarray:
    """COCO's compressed run lengths as int64: five bits a character, low ones first, the sixth says that more follow.

    From the fourth on a run is told by its difference to the one two before.
    """
    digits = np.frombuffer(code, np.uint8).astype(np.int64) - 48
    if not digits.size or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        raise ValueError("damaged run lengths")
    last = digits < 32
    starts = np.flatnonzero(np.r_[True, last[:-1]])
    lengths = np.diff(np.r_[starts, digits.size])
    if lengths.max() > 7:
        raise ValueError("damaged run lengths")
    runs = np.add.reduceat((digits & 31) << 5 * (np.arange(digits.size) - np.repeat(starts, lengths)), starts)
    runs -= np.where(digits[last] & 16, 1 << 5 * lengths, 0)
    for chain in (runs[1::2], runs[2::2]):
        np.cumsum(chain, out=chain)
    return runs


def _from_png(path: Any, height: int, width: int, where: str) -> np.ndarray:
    try:
        with Pillow.open(path) as image:
            # An alpha channel says how the picture is shown, not what is on it.
            pixels = np.asarray(image.convert(image.mode.rstrip("Aa")) if image.mode in ("LA", "RGBA") else image)
    except FileNotFoundError as error:
        raise UserError(f"{where}: the mask {path} is missing: check its path") from error
    except Exception as error:  # Pillow raises nearly anything for damaged files
        raise UserError(f"{where}: the mask {path} is no image, or a damaged one: use a PNG") from error
    if pixels.shape[:2] != (height, width):
        raise UserError(
            f"{where}: the mask {path} is {pixels.shape[0]} x {pixels.shape[1]} pixels (height x width), its "
            f"image {height} x {width}: draw the mask on the image as people see it"
        )
    return pixels != 0 if pixels.ndim == 2 else (pixels != 0).any(-1)
