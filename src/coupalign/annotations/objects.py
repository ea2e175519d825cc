"""What every reader of annotations yields, and what several readers share."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

import numpy as np

from coupalign.data.images import MOST_PIXELS
from coupalign.data.referents import as_text, is_size
from coupalign.errors import UserError

Size = tuple[int, int]  # height and width in pixels


@dataclass(frozen=True)
class AnnotatedObject:
    """One object of one image."""

    name: str  # for messages, such as "desk.json: shape 2"
    image: str  # file name as the annotations give it, with forward slashes
    segmentation: list[Any]  # polygons and run lengths, see `coupalign.data.masks.annotation_mask`
    key: tuple[str, ...]  # values of the table's key columns
    label: str = ""  # its class
    texts: tuple[str, ...] = ()  # its own expressions
    size: Size | None = None  # of the image, according to the annotations
    nearby: Path | None = None  # where the image is expected besides --images
    image_content: bytes | None = None  # LabelMe can store the image file inside the annotation


@dataclass(frozen=True)
class LeftOut:
    """A part of the annotations that cannot become a mask with an expression."""

    reason: str  # the same for all parts of one kind, so that they can be counted
    name: str


# A UserError stands for an object or a file that cannot be used; the caller raises or lists it.
Found = Union[AnnotatedObject, LeftOut, UserError]


def until_error(found: Iterator[Found]) -> Iterator[Found]:
    """`found`, with a UserError that it raises as the last item."""
    try:
        yield from found
    except UserError as error:
        yield error


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object. Raises: UserError."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check --annotations") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}): check --annotations and --from") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is a {type(content).__name__}, expected a JSON object: check --from")
    return content


def entries(content: dict[str, Any], name: str, path: Path) -> list[dict[str, Any]]:
    """The list of objects that a JSON file has under `name`. Raises: UserError."""
    found = content.get(name)
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise UserError(f"{path} has no list of {name}: check that --from names the format of the file")
    return found


def as_size(height: Any, width: Any) -> Size | None:
    """Height and width, or None if they cannot be those of an image."""
    return (height, width) if is_size(height) and is_size(width) else None


def own_texts(*values: object) -> tuple[str, ...]:
    """The expressions in text fields: one per line, blank lines left out."""
    lines = [line.strip() for value in values for line in as_text(value).splitlines()]
    return tuple(dict.fromkeys(filter(None, lines)))


def box_outline(left: float, top: float, right: float, bottom: float, degrees: float = 0) -> list[float]:
    """The polygon of a box, turned clockwise around its centre."""
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float64)
    return _turned(corners, degrees)


def ellipse_outline(x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0) -> list[float]:
    """The polygon of an ellipse around (x, y), turned clockwise."""
    angles = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    points = np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1)
    return _turned(points, degrees)


def placed(part: np.ndarray, left: int, top: int, size: Size) -> np.ndarray:
    """A mask (H, W) bool with `part` at the given place. Raises: ValueError if it does not fit."""
    height, width = part.shape
    if size[0] * size[1] > MOST_PIXELS:
        raise ValueError(f"a mask in an image of more than {MOST_PIXELS:,} pixels")
    if left < 0 or top < 0 or top + height > size[0] or left + width > size[1]:
        raise ValueError(f"a mask of {height} x {width} pixels at row {top}, column {left} of an image {size}")
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = part
    return mask


def file_key(name: str) -> str:
    """A file name as tables write it: with forward slashes and without ``./``."""
    return os.path.normpath(name.replace("\\", "/")).replace("\\", "/")


def _turned(points: np.ndarray, degrees: float) -> list[float]:
    """Turns points (N, 2) clockwise around the centre of their box: x1, y1, x2, y2, ..."""
    if not degrees:
        return points.ravel().tolist()  # exact where the corners are
    centre = (points.min(0) + points.max(0)) / 2
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turned = (points - centre) @ np.array([[cosine, sine], [-sine, cosine]]) + centre
    return turned.ravel().tolist()
