"""Image files as upright RGB pixels. Every program of this package decodes with Pillow, here.

The rules are written for users in docs/data.md ("Which pixels count"). ``deploy/model_inputs.py`` and the C++ program
follow them in code of their own.
"""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps

from coupalign.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")
MOST_PIXELS = 1 << 27
_ORIENTATION = 0x0112  # EXIF; Pillow also fills it from XMP
_SIDEWAYS = (5, 6, 7, 8)  # orientations that swap height and width
_END = b"\xff\xd9"  # of a JPEG
_logger = logging.getLogger(__name__)


def load_image(path: str | os.PathLike) -> np.ndarray:
    """Reads an image file: (H, W, 3) uint8, RGB, upright. Raises: UserError, as `decode_image`."""
    return decode_image(read_content(path, f"image {path}"), path)


def decode_image(content: bytes, path: str | os.PathLike) -> np.ndarray:
    """Decodes an image file's content: (H, W, 3) uint8, RGB, upright.

    The result equals ``ImageOps.exif_transpose(Image.open(file)).convert("RGB")`` of Pillow, except that 16-bit grey
    keeps its upper eight bits, which Pillow would clip.

    Raises: UserError, which names `path`, if the content is not an image, is damaged, or lacks some of its pixels.
    """
    return rgb_pixels(open_upright(content, f"image {path}"), f"image {path}")


def encode_record(
    content: bytes, path: str | os.PathLike, size: tuple[int, int] | None = None, as_stored: bool = False
) -> bytes:
    """Returns the bytes to store in MindRecord: a JPEG or PNG that MindSpore decodes to the upright image.

    JPEG and PNG files are returned unchanged where MindSpore reads the right pixels from them. Images with another
    orientation, CMYK files and other formats become a PNG.

    Args:
        size: (height, width) for which the annotations were made; another size is an error.
        as_stored: If the pixels as stored have this size, ignore the orientation, as the tools of COCO do.

    Raises: UserError, which names `path`, if the content cannot be decoded (see `decode_image`) or has another size.
    """
    name = f"image {path}"
    with _open(content, name) as picture:
        kind, mode, stored = picture.format, picture.mode, picture.size[::-1]
        orientation = _orientation(picture, name)
    turned = orientation != 1 and not (as_stored and size == stored)
    found = stored[::-1] if turned and orientation in _SIDEWAYS else stored
    if size is not None and size != found:
        raise UserError(
            f"{name} is {found[0]} x {found[1]} pixels (height x width), its annotations are for "
            f"{size[0]} x {size[1]}: use the images for which the annotations were made"
        )
    picture, content = _load(content, name)
    bgr = rgb_pixels(open_upright(content, name) if turned else picture, name)[..., ::-1]
    if kind in ("JPEG", "MPO", "PNG") and mode != "CMYK" and not turned:
        # Decoders differ on damaged files; OpenCV stands for MindSpore here.
        read = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if np.array_equal(read, bgr):
            return content
    return cv2.imencode(".png", bgr)[1].tobytes()


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """Returns height and width of the upright image, from the file's header where possible. Raises: UserError."""
    with _open(path, f"image {path}") as picture:
        sideways = _orientation(picture, f"image {path}") in _SIDEWAYS
        return picture.size if sideways else picture.size[::-1]


def read_content(path: str | os.PathLike, name: str) -> bytes:
    """Returns the bytes of a file; `name` is the subject of messages, such as "image a.jpg". Raises: UserError."""
    with _decoding(name):
        return Path(path).read_bytes()


def open_upright(content: bytes, name: str) -> Pillow.Image:
    """Decodes the first frame of an image file and turns it upright, in the file's own mode. Raises: UserError."""
    with _decoding(name):
        return ImageOps.exif_transpose(_load(content, name)[0])


def rgb_pixels(picture: Pillow.Image, name: str) -> np.ndarray:
    """Converts a loaded picture of any mode to (H, W, 3) uint8. Alpha is dropped. Raises: UserError."""
    if picture.mode in ("I", "F", "LAB", "HSV"):
        raise UserError(f"{name} has the pixel type {picture.mode!r} of Pillow: convert it to 8 bits per channel, RGB")
    if picture.mode.startswith("I;16"):
        picture = Pillow.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    return np.asarray(picture.convert("RGB"))


def _open(file: bytes | str | os.PathLike, name: str) -> Pillow.Image:
    with _decoding(name):
        picture = Pillow.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS)
        if picture.width * picture.height > MOST_PIXELS:
            raise Pillow.DecompressionBombError
        return picture


def _orientation(picture: Pillow.Image, name: str) -> int:
    """The orientation still to be applied, 1 to 8. Pillow itself turns TIFFs, and gives their upright size."""
    with _decoding(name):
        orientation = picture.getexif().get(_ORIENTATION, 1)
    return orientation if orientation in range(2, 9) and picture.format != "TIFF" else 1


def _load(content: bytes, name: str) -> tuple[Pillow.Image, bytes]:
    """Decodes a file; returns the picture, and `content` with the end marker of a JPEG if only that was missing."""
    picture = _open(content, name)
    try:
        with _decoding(name):
            picture.load()
        return picture, content
    except UserError:
        if picture.format not in ("JPEG", "MPO"):
            raise
    # libjpeg decodes missing pixels from whatever follows. If two continuations give the same pixels, none is missing.
    with _decoding(name):
        pictures = [Pillow.open(io.BytesIO(content + tail + _END)) for tail in (b"", b"\x00" * 4096, b"\xaa" * 4096)]
        first, *others = (rgb_pixels(picture, name) for picture in pictures)
    if not all(np.array_equal(first, other) for other in others):
        raise UserError(f"{name} ends early, and some of its pixels are missing: copy or download it again")
    _logger.warning("%s has no end marker; all its pixels are present", name)
    return pictures[0], content + _END


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Silences Pillow's warnings, and turns its exceptions, of nearly any type for a damaged file, into UserError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except Pillow.DecompressionBombError as error:
        raise UserError(f"{name} has more than {MOST_PIXELS:,} pixels: make it smaller") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise UserError(f"{name} cannot be read ({error.strerror}): check its path") from error
        raise UserError(f"{name} is not an image, is damaged or ends early: use a complete JPEG or PNG file") from error
