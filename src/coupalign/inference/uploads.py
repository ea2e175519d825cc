"""Checks of images and expressions that strangers send, for the page and the service.

Messages go to users, so they name no path of the server.
"""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
from PIL import Image as Pillow

from coupalign.data.images import decode_image
from coupalign.data.tokenizer import Tokenizer
from coupalign.errors import UserError

MAX_MEGABYTES = 10
MAX_MEGAPIXELS = 25
MIN_SIDE = 8
MAX_EXPRESSIONS = 6
MAX_CHARACTERS = 300
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")


class Refused(UserError):
    """A request that is refused, with the reason for the user. Other errors go to the server's log only."""


def check_image(content: bytes, name: str) -> np.ndarray:
    """The image in an uploaded file, (H, W, 3) uint8, RGB, upright. Raises: Refused.

    The content decides the format, not the name.
    """
    name = shortened(name)
    if len(content) > MAX_MEGABYTES * 2**20:
        raise Refused(f"{name} is larger than {MAX_MEGABYTES} MB: choose a smaller one.")
    try:
        with Pillow.open(io.BytesIO(content), formats=_FORMATS) as header:  # decodes no pixels
            width, height = header.size
        if width * height > MAX_MEGAPIXELS * 10**6:
            raise Pillow.DecompressionBombError
        if min(width, height) < MIN_SIDE:
            raise Refused(f"{name} has {width}×{height} pixels: choose an image with sides of at least {MIN_SIDE}.")
        return decode_image(content, name)
    except Pillow.DecompressionBombError as error:
        raise Refused(f"{name} has more than {MAX_MEGAPIXELS} million pixels: choose a smaller one.") from error
    except Refused:
        raise
    except Exception as error:  # Pillow raises many kinds of errors for damaged headers
        raise Refused(f"{name} is not an image, or is damaged: choose a JPEG or PNG file.") from error


def check_expressions(lines: Iterable[str], tokenizer: Tokenizer) -> list[str]:
    """The expressions with single spaces. Raises: Refused."""
    expressions = [" ".join(line.split()) for line in lines]
    if not expressions:
        raise Refused("There is no expression: say which object is meant, for example “the left cup”.")
    if len(expressions) > MAX_EXPRESSIONS:
        raise Refused(f"There are {len(expressions)} expressions: give at most {MAX_EXPRESSIONS} at a time.")
    for expression in expressions:
        if len(expression) > MAX_CHARACTERS:
            raise Refused(f"“{shortened(expression)}” has {len(expression)} characters: give at most {MAX_CHARACTERS}.")
        try:
            tokenizer.encode(expression)
        except UserError as error:
            raise Refused(f"“{shortened(expression)}” has no word: say which object is meant.") from error
    return expressions


def shortened(text: str) -> str:
    """At most 60 characters of a text."""
    return text if len(text) <= 60 else text[:59] + "…"
