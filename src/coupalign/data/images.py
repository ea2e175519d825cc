"""Image files of any kind as bytes that every decoder reads alike."""

from __future__ import annotations

import io
import os

import cv2
import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps

from coupalign.errors import UserError

_ORIENTATION = 0x0112  # EXIF
_SIDEWAYS = (5, 6, 7, 8)  # orientations that swap height and width
# By format, what its last piece of pixels and what its end begin with.
_MARKS = {"JPEG": (b"\xff\xda", b"\xff\xd9"), "PNG": (b"IDAT", b"IEND")}


def plain_image(
    content: bytes, path: str | os.PathLike, size: tuple[int, int] | None = None, as_stored: bool = False
) -> bytes:
    """An image file's content as a JPEG or PNG of the picture as people see it, upright.

    Most files are returned as they are. Those whose EXIF orientation turns them, JPEGs in CMYK and other formats (WebP,
    TIFF, BMP) become a PNG.

    Args:
        path: for messages.
        size: (height, width) that annotations were made for; another one is an error.
        as_stored: where the pixels as stored have that size, take them without regard to EXIF, as the tools of COCO do.

    Raises: UserError for what is no image, is damaged or ends early, or has another size.
    """
    try:
        with Pillow.open(io.BytesIO(content)) as header:
            kind, mode, (width, height) = header.format, header.mode, header.size
            orientation = header.getexif().get(_ORIENTATION, 1)
    except Exception as error:  # Pillow raises nearly anything for damaged headers
        raise _damaged(path) from error
    turned = orientation in range(2, 9) and not (as_stored and size == (height, width))
    found = (width, height) if turned and orientation in _SIDEWAYS else (height, width)
    if size is not None and size != found:
        raise UserError(
            f"image {path} is {found[0]} x {found[1]} pixels (height x width), its annotations are for "
            f"{size[0]} x {size[1]}: take the images that the annotations were made for"
        )
    # Decoders fill up a file that ends early with grey. An end inside the data is escaped, one of a thumbnail comes
    # before the data; so the last end is behind the last start.
    if kind in _MARKS and content.rfind(_MARKS[kind][1]) <= content.rfind(_MARKS[kind][0]):
        raise UserError(f"image {path} ends early: copy or fetch it again")
    if kind in _MARKS and mode != "CMYK" and not turned:
        # An eighth of the size reads all of the data for half of the work.
        _decode(content, path, cv2.IMREAD_REDUCED_GRAYSCALE_8 if kind == "JPEG" else cv2.IMREAD_GRAYSCALE)
        return content
    pixels = _decode(content, path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if turned:
        picture = Pillow.fromarray(pixels)
        picture.getexif()[_ORIENTATION] = orientation
        pixels = np.asarray(ImageOps.exif_transpose(picture))
    return cv2.imencode(".png", pixels)[1].tobytes()


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """Height and width of the picture of a file as people see it, from its header alone. Raises: UserError."""
    try:
        with Pillow.open(path) as header:
            width, height = header.size
            return (width, height) if header.getexif().get(_ORIENTATION, 1) in _SIDEWAYS else (height, width)
    except FileNotFoundError as error:
        raise UserError(f"image {path} is missing: check its path") from error
    except Exception as error:
        raise _damaged(path) from error


def _decode(content: bytes, path: str | os.PathLike, flags: int) -> np.ndarray:
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error as error:
        raise _damaged(path) from error
    if pixels is None:
        raise _damaged(path)
    return pixels


def _damaged(path: str | os.PathLike) -> UserError:
    return UserError(f"image {path} is no image, or a damaged one: use a JPEG or PNG file")
