"""Masks from the annotations of COCO and REFER, and from files."""

from __future__ import annotations

import logging
import os
from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image as Pillow
from pycocotools import mask as coco

from coupalign.data.images import MOST_PIXELS, open_upright, read_content
from coupalign.errors import UserError

# Limits on the input of pycocotools, which would overflow or reserve gigabytes beyond them.
_FARTHEST = 1e5
_LONGEST_OUTLINE = 1e6
_logger = logging.getLogger(__name__)
_BRACKETS = "points in brackets of their own, as LabelMe and OpenCV write them: write x and y in turn in one list"
_WRITE_MASK = "Save it as a greyscale PNG with 0 for the background and 255 for the object"
FORMS = '{"png": "a.png"}, {"size": [height, width], "counts": ...} or polygons in pixels [[x1, y1, x2, y2, ...], ...]'


def annotation_mask(annotation: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """Draws an annotation: (height, width) bool.

    The segmentation is a list of polygons [x1, y1, x2, y2, ...], run lengths (compressed, or plain as COCO writes
    crowds), a list of run lengths (ReferIt), or {"png": path} (see `mask_from_file`). Parts are united: a pixel where
    polygons overlap belongs to the mask. Polygons are clipped to the image; those with fewer than three points have no
    inside and are ignored.

    Raises: UserError if the segmentation is invalid, does not fit the image, or covers no pixel. The message has the
        annotation's ``name`` or ``id``.
    """
    where = annotation.get("name") or f"annotation {annotation.get('id')}"
    segmentation = annotation.get("segmentation")
    if height * width > MOST_PIXELS:
        raise UserError(f"{where}: its image has more than {MOST_PIXELS:,} pixels: make the image smaller")
    if isinstance(segmentation, Mapping) and "png" in segmentation:
        mask = mask_from_file(segmentation["png"], height, width, where)
    else:
        try:
            mask = _from_parts(segmentation, height, width)
        except (OverflowError, TypeError, ValueError) as error:
            remedy = f"give {FORMS}, or leave it out with --on_error skip"
            raise UserError(f"{where} has an invalid mask ({error}): {remedy}") from error
    if not mask.any():
        raise UserError(
            f"{where} covers no pixel of its image: correct its mask, write [] for it in JSON Lines if nothing in the "
            "image is meant, or leave it out with --on_error skip"
        )
    return mask


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """A mask (H, W) bool as compressed run lengths of COCO, ``{"size": [H, W], "counts": TEXT}``."""
    runs = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": runs["counts"].decode("ascii")}


def packed(segmentation: Any) -> Any:
    """Stores the lists of numbers of a segmentation as arrays, at a quarter of the size; keeps anything else."""
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


def _from_parts(segmentation: Any, height: int, width: int) -> np.ndarray:
    parts = [segmentation] if isinstance(segmentation, Mapping) else segmentation
    if not isinstance(parts, list):
        raise TypeError("no segmentation")
    if len(parts) > 1 and all(isinstance(part, (list, array)) and len(part) == 2 for part in parts):
        raise TypeError(_BRACKETS)
    mask = np.zeros((height, width), bool)
    for part in parts:
        mask |= (_from_runs if isinstance(part, Mapping) else _from_polygon)(part, height, width)
    return mask


def _from_polygon(numbers: Any, height: int, width: int) -> np.ndarray | bool:
    if not isinstance(numbers, (list, array)):
        raise TypeError("a polygon is a list of numbers, and a mask a list of polygons")
    if any(isinstance(number, list) for number in numbers):
        raise TypeError(_BRACKETS)
    points = np.array(numbers, np.float64)
    # pycocotools would ignore a surplus number, and read four numbers as a box.
    if points.ndim != 1 or points.size % 2:
        raise ValueError("an odd number of coordinates")
    if points.size < 6:
        return False
    if not np.all(np.abs(points) < _FARTHEST):
        raise ValueError("a point far outside the image")
    if 0 <= points.min() and points.max() <= 1 and (points % 1).any():
        raise ValueError("all coordinates lie between 0 and 1: multiply them by the image's width and height")
    outline = points.reshape(-1, 2)
    if np.abs(outline - np.roll(outline, 1, axis=0)).sum() > _LONGEST_OUTLINE:
        raise ValueError("an outline that is too long for any object")
    return coco.decode(coco.frPyObjects([points], height, width)[0]).astype(bool)


def _from_runs(part: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """Decodes run lengths here, because pycocotools reads beyond the end of damaged ones."""
    if not {"size", "counts"} <= set(part):
        raise ValueError("run lengths need size and counts")
    if part["size"] != [height, width]:
        raise ValueError(f"size {part['size']!r:.60} for an image of {height} x {width} pixels, height x width")
    counts = part["counts"]
    if isinstance(counts, str):
        counts = counts.encode("ascii")
    runs = np.array(_decompressed(counts) if isinstance(counts, bytes) else counts, np.int64)
    if runs.ndim != 1 or (runs < 0).any() or runs.sum() != height * width:
        raise ValueError("run lengths that do not add up to the image's pixels")
    # Column by column, background first.
    return np.repeat(np.arange(runs.size) % 2 == 1, runs).reshape(width, height).T


def _decompressed(code: bytes) -> list[int]:
    """Decodes COCO's compressed run lengths.

    A character holds five bits, lowest first; its sixth bit says that more follow. From the fourth on, a run is coded
    as the difference to the run two before.
    """
    runs: list[int] = []
    value = shift = 0
    for digit in (character - 48 for character in code):
        if not 0 <= digit < 64 or shift > 30:
            raise ValueError("damaged run lengths")
        value |= (digit & 31) << shift
        shift += 5
        if digit < 32:
            value -= (digit & 16) << shift - 4
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift or not runs:
        raise ValueError("damaged run lengths")
    return runs


def mask_from_file(path: str | os.PathLike, height: int, width: int, where: str) -> np.ndarray:
    """Reads a mask file: (height, width) bool, turned upright like an image.

    The file has 0 for the background and one other value for the object. docs/data.md ("Mask files") states the rules.

    Raises: UserError, starting with `where`, if the file is missing, damaged, of another size, or could be read in more
        than one way.
    """
    name = f"{where}: the mask {path}"
    content = read_content(path, name)
    picture = open_upright(content, name)
    if picture.size != (width, height):
        raise UserError(
            f"{name} is {picture.height} x {picture.width} pixels (height x width), its image {height} x {width}: "
            "draw the mask on the image as viewers show it"
        )
    alpha = _alpha(picture)
    if picture.mode in ("LA", "RGBA"):
        picture = picture.convert(picture.mode.removesuffix("A"))
    values = _palette_values(picture, name) if picture.mode == "P" else _colour_values(picture, name)
    if alpha is not None and values.min() == values.max():
        mask = _one_value(alpha, name, picture.mode)
    elif alpha is not None and not np.array_equal(values != 0, alpha != 0):
        raise UserError(f"{name} shows one object by its colour and another by its transparency. {_WRITE_MASK}")
    elif picture.mode in ("L", "RGB") and (content.startswith(b"\xff\xd8") or content[8:12] == b"WEBP"):
        mask = _lossy_mask(np.asarray(picture.convert("L")), name)
    else:
        mask = _one_value(values, name, picture.mode)
    if not mask.all() and all(edge.all() for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1])):
        _logger.warning("%s: the object covers all four edges. If black shows the object, invert the mask", name)
    return mask


def _alpha(picture: Pillow.Image) -> np.ndarray | None:
    """The alpha channel, or that of transparent palette entries and colours; None if it is constant."""
    if picture.mode in ("LA", "RGBA"):
        alpha = np.asarray(picture.getchannel("A"))
    elif "transparency" in picture.info:
        alpha = np.asarray(picture.convert("RGBA").getchannel("A"))
    else:
        return None
    return None if alpha.min() == alpha.max() else alpha


def _one_value(values: np.ndarray, name: str, mode: str) -> np.ndarray:
    """Where the values are not 0, if all of these are equal. Raises: UserError."""
    levels = values[values != 0]
    if levels.size and levels.min() != levels.max():
        found = np.unique(levels)
        shown = [f"#{value:06x}" if mode == "RGB" else str(value) for value in found[:4].tolist()]
        raise UserError(
            f"{name} has {found.size:,} values besides the background ({', '.join(shown)}{', ...' * (found.size > 4)})"
            f": other objects, a border (255 in VOC) or soft edges. {_WRITE_MASK}"
        )
    return values != 0


def _palette_values(picture: Pillow.Image, name: str) -> np.ndarray:
    """Entries of the palette count if entry 0 is black; else colours, if these are black and white only."""
    entries = np.asarray(picture)
    palette = np.zeros((256, 3), np.uint8)
    colours = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    palette[: len(colours)] = colours
    if not palette[0].any():
        return entries
    if not np.isin(palette[np.unique(entries)].sum(1, dtype=int), (0, 3 * 255)).all():
        raise UserError(
            f"{name} has a palette whose entry 0 is {tuple(palette[0].tolist())} instead of black, so the background "
            f"is not known. {_WRITE_MASK}"
        )
    return palette[entries, 0]


def _colour_values(picture: Pillow.Image, name: str) -> np.ndarray:
    """One number per colour, 0 for black."""
    if picture.mode not in ("1", "L", "I", "F", "RGB") and not picture.mode.startswith("I;16"):
        raise UserError(f"{name} has the pixel type {picture.mode} of Pillow. {_WRITE_MASK}")
    values = np.asarray(picture)
    return values.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32) if values.ndim == 3 else values


def _lossy_mask(grey: np.ndarray, name: str) -> np.ndarray:
    """A mask compressed with loss: half grey parts object and background, if nearly all pixels are black or white."""
    counts = np.bincount(grey.ravel(), minlength=256)
    inside = counts[128:].sum()
    # A single frequent grey is a label or a border, not noise of the compression.
    if (grey.any() and not inside) or 4 * counts[64:192].sum() > inside or 4 * counts[3:253].max() > inside:
        raise UserError(f"{name} is compressed with loss and is not black and white. {_WRITE_MASK}")
    return grey > 127
