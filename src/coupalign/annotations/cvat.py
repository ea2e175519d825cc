"""Annotations in CVAT's own XML ("CVAT for images 1.1")."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from coupalign.annotations.coco import TEXT_ATTRIBUTES
from coupalign.annotations.objects import (
    AnnotatedObject,
    Found,
    LeftOut,
    Size,
    box_outline,
    ellipse_outline,
    file_key,
    own_texts,
    placed,
    until_error,
)
from coupalign.data.masks import run_lengths
from coupalign.data.referents import as_text
from coupalign.errors import UserError

KEYS: tuple[tuple[str, ...], ...] = (("file", "label"),)
_NO_AREA = ("points", "polyline", "skeleton", "cuboid")


def read_cvat(path: Path) -> Iterator[Found]:
    """Reads polygons, boxes, ellipses and masks.

    Shapes of an image with the same label and ``group_id`` (other than 0) are one object. An object's own expressions
    are its attributes ``expression``, ``caption`` and ``description``. A table names objects by the image's name and
    the label. Raises: UserError.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give CVAT's annotations.xml") from error
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{path} is not XML ({error}): give CVAT's annotations.xml") from error
    if root.tag != "annotations":
        raise UserError(f"{path} has the root <{root.tag}>: export as 'CVAT for images 1.1' and give annotations.xml")
    for track in root.iter("track"):
        yield LeftOut("tracks of a video: export as 'CVAT for images 1.1'", f"{path}: track {track.get('id')}")
    for image in root.iter("image"):
        yield from until_error(_read_image(image, path))


def _read_image(image: ElementTree.Element, path: Path) -> Iterator[Found]:
    where = f"{path}: image {image.get('name')}"
    try:
        name, size = file_key(image.attrib["name"]), (int(image.attrib["height"]), int(image.attrib["width"]))
    except (KeyError, ValueError) as error:
        raise UserError(f"{where} lacks name, height or width: export the task again") from error
    groups: dict[Any, list[tuple[str, ElementTree.Element]]] = {}
    for number, shape in enumerate(image, 1):
        shown = f"{where}, shape {number} ({shape.tag})"
        if shape.tag == "tag":
            yield LeftOut("tags of whole images", shown)
        elif shape.tag in _NO_AREA:
            yield LeftOut("shapes without an area (points, lines, skeletons, cuboids)", shown)
        elif shape.tag not in _PARTS:
            yield LeftOut("unknown shapes", shown)
        else:
            group = shape.get("group_id", "0")
            key = number if group == "0" else (shape.get("label"), group)
            groups.setdefault(key, []).append((shown, shape))
    for shapes in groups.values():
        yield _drawn(name, size, shapes)


def _drawn(image: str, size: Size, shapes: list[tuple[str, ElementTree.Element]]) -> AnnotatedObject | UserError:
    """The object that the shapes are, or the error of a damaged one."""
    segmentation = []
    for shown, shape in shapes:
        try:
            segmentation.append(_PARTS[shape.tag](shape, size))
        except (KeyError, ValueError, OverflowError) as error:
            return UserError(f"{shown} cannot be read ({error}): draw it again, or remove it")
    label = as_text(shapes[0][1].get("label"))
    attributes = [{each.get("name"): each.text for each in shape.iter("attribute")} for _, shape in shapes]
    return AnnotatedObject(
        name=shapes[0][0],
        image=image,
        segmentation=segmentation,
        key=(image, label),
        label=label,
        texts=own_texts(*(each.get(key) for each in attributes for key in TEXT_ATTRIBUTES)),
        size=size,
    )


def _polygon(shape: ElementTree.Element, _size: Size) -> list[float]:
    return [float(number) for point in shape.attrib["points"].split(";") for number in point.split(",")]


def _box(shape: ElementTree.Element, _size: Size) -> list[float]:
    return box_outline(*_numbers(shape, "xtl", "ytl", "xbr", "ybr"))


def _ellipse(shape: ElementTree.Element, _size: Size) -> list[float]:
    return ellipse_outline(*_numbers(shape, "cx", "cy", "rx", "ry"))


def _mask(shape: ElementTree.Element, size: Size) -> dict[str, Any]:
    """Run lengths row by row within a box, background first."""
    left, top, width, height = (int(shape.attrib[key]) for key in ("left", "top", "width", "height"))
    runs = np.array([int(run) for run in shape.attrib["rle"].split(",")], np.int64)
    if (runs < 0).any() or runs.sum() != width * height or width * height > size[0] * size[1]:
        raise ValueError("run lengths that do not add up to the pixels of its box")
    part = np.repeat(np.arange(runs.size) % 2 == 1, runs).reshape(height, width)
    return run_lengths(placed(part, left, top, size))


def _numbers(shape: ElementTree.Element, *keys: str) -> list[float]:
    """The numbers, and the rotation in degrees."""
    return [*(float(shape.attrib[key]) for key in keys), float(shape.get("rotation", 0))]


_PARTS = {"polygon": _polygon, "box": _box, "ellipse": _ellipse, "mask": _mask}
