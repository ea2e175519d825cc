"""Annotations in LabelMe's JSON files, one per image."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from coupalign.annotations.objects import (
    AnnotatedObject,
    Found,
    LeftOut,
    Size,
    as_size,
    box_outline,
    ellipse_outline,
    entries,
    file_key,
    own_texts,
    placed,
    read_json,
    until_error,
)
from coupalign.data.images import open_upright
from coupalign.data.masks import run_lengths
from coupalign.data.referents import as_text
from coupalign.errors import UserError

KEYS: tuple[tuple[str, ...], ...] = (("file", "label"),)
_NO_AREA = ("point", "points", "line", "linestrip")


def read_labelme(path: Path, images: Path) -> Iterator[Found]:
    """Reads a file, or all files of a directory: polygons, rectangles, circles and masks.

    Shapes with the same label and ``group_id`` are one object. An object's own expressions are the lines of its
    ``description``. A table names objects by the image's file name and the label. Raises: UserError.
    """
    files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} has no .json file: give the directory of LabelMe's files with --annotations")
    for file in files:
        below = file.relative_to(path).parent if path.is_dir() else Path()
        yield from until_error(_read_file(file, below, images))


def _read_file(file: Path, below: Path, images: Path) -> Iterator[Found]:
    content = read_json(file)
    size = as_size(content.get("imageHeight"), content.get("imageWidth"))
    stored = file_key(as_text(content.get("imagePath")))
    if size is None or stored.endswith("."):
        raise UserError(f"{file} has no imagePath, imageHeight and imageWidth: check that it is a file of LabelMe")
    groups: dict[Any, list[tuple[str, dict[str, Any]]]] = {}
    for number, shape in enumerate(entries(content, "shapes", file), 1):
        group = shape.get("group_id")
        key = number if group is None else (as_text(shape.get("label")), str(group))
        groups.setdefault(key, []).append((f"{file}: shape {number}", shape))
    image = file_key(str(below / Path(stored).name))
    nearby = file.parent / stored
    is_there = (images / image).is_file() or nearby.is_file()
    inside = None if is_there else _image_content(content.get("imageData"), file)
    for shapes in groups.values():
        name, first = shapes[0]
        label = as_text(first.get("label"))
        texts = own_texts(*(shape.get("description") for _, shape in shapes))
        found = AnnotatedObject(name, image, [], (image, label), label, texts, size, nearby, inside)
        yield from until_error(_drawn(found, shapes, size))


def _drawn(found: AnnotatedObject, shapes: list[tuple[str, dict[str, Any]]], size: Size) -> Iterator[Found]:
    """What is no area, and the object `found` with the segmentation of the others, if there are any."""
    segmentation = []
    for name, shape in shapes:
        kind = str(shape.get("shape_type") or "polygon")
        if kind in _NO_AREA:
            yield LeftOut("points and lines, which have no area", f"{name} ({kind})")
        elif kind not in _OUTLINES and kind != "mask":
            yield LeftOut("unknown shapes", f"{name} ({kind:.40})")
        else:
            segmentation.append(_part(kind, shape, size, f"{name} ({kind})"))
    if segmentation:
        yield replace(found, segmentation=segmentation)


def _part(kind: str, shape: dict[str, Any], size: Size, name: str) -> Any:
    try:
        points = np.array(shape.get("points"), np.float64)
        if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
            raise ValueError("points are not pairs of numbers")
        if kind == "mask":
            return run_lengths(_mask(points, shape.get("mask"), size))
        return _OUTLINES[kind](points)
    except (OverflowError, TypeError, ValueError) as error:
        raise UserError(f"{name} cannot be read ({error}): draw it again, or remove it") from error


def _polygon(points: np.ndarray) -> list[float]:
    return points.ravel().tolist()


def _rectangle(points: np.ndarray) -> list[float]:
    """Two opposite corners, or all four."""
    return box_outline(*points.min(0), *points.max(0)) if len(points) == 2 else _polygon(points)


def _circle(points: np.ndarray) -> list[float]:
    """The centre and a point of the circle."""
    (x, y), edge = points
    radius = math.hypot(*(edge - (x, y)))
    return ellipse_outline(x, y, radius, radius)


def _mask(points: np.ndarray, code: Any, size: Size) -> np.ndarray:
    """The points are the first and the last pixel (x, y) of a grey picture, in which everything but 0 is the object."""
    (left, top), (right, bottom) = points.astype(int).tolist()
    try:
        part = np.asarray(open_upright(base64.b64decode(code), ""))
    except UserError as error:
        raise ValueError("its picture is damaged") from error
    if part.ndim > 2:  # with an alpha channel, opaque black would be the object
        raise ValueError("its picture has several channels, and LabelMe writes one")
    if part.shape != (bottom - top + 1, right - left + 1):
        raise ValueError(f"its picture and its points {left, top}, {right, bottom} differ in size")
    return placed(part, left, top, size)


_OUTLINES = {"polygon": _polygon, "rectangle": _rectangle, "circle": _circle}


def _image_content(data: object, file: Path) -> bytes | None:
    try:
        return base64.b64decode(data, validate=True) if isinstance(data, str) and data else None
    except binascii.Error as error:
        raise UserError(f"{file} has damaged imageData ({error}): save the file again with LabelMe") from error
