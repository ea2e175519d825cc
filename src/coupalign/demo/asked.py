"""What users of the page send, checked. Every refusal is a line that anybody may read: no path of the server."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from coupalign.data.images import load_image
from coupalign.data.tokenizer import Tokenizer
from coupalign.errors import UserError

MAX_MEGABYTES = 10
MAX_MEGAPIXELS = 25
MIN_SIDE = 8
MAX_EXPRESSIONS = 6
MAX_CHARACTERS = 300
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")


class Refused(UserError):
    """What the page shows to a user. Other errors stay in the server's log."""


def read_upload(path: str | os.PathLike | None) -> np.ndarray:
    """The image of an uploaded file, (H, W, 3) uint8, RGB, upright. What the file is, its content says, not its name.

    Raises: Refused for none, for a file that is too large, and for what is no image or an unusable one.
    """
    if path is None or not os.path.isfile(path):  # uploads are not kept for ever
        raise Refused("There is no image: choose one, or drop it into its box.")
    name = shown(Path(path).name)
    if os.path.getsize(path) > MAX_MEGABYTES * 2**20:
        raise Refused(f"{name} is larger than {MAX_MEGABYTES} MB: choose a smaller one.")
    try:
        with Pillow.open(path, formats=_FORMATS) as header:  # reads no pixels
            width, height = header.size
        if width * height > MAX_MEGAPIXELS * 10**6:
            raise Pillow.DecompressionBombError
        if min(width, height) < MIN_SIDE:
            raise Refused(f"{name} has {width}×{height} pixels: choose an image of {MIN_SIDE} or more a side.")
        return load_image(path)
    except Pillow.DecompressionBombError as error:
        raise Refused(f"{name} has more than {MAX_MEGAPIXELS} million pixels: choose a smaller one.") from error
    except Refused:
        raise
    except Exception as error:  # Pillow raises nearly anything for damaged headers
        raise Refused(f"{name} is no image, or a damaged one: choose a JPEG or PNG file.") from error


def read_expressions(text: str, tokenizer: Tokenizer) -> list[str]:
    """The expressions of a text, one a line, blank lines left out.

    Raises: Refused for none, too many, one that is too long for the model, or one without a word.
    """
    expressions = [" ".join(line.split()) for line in (text or "").splitlines() if line.strip()]
    if not expressions:
        raise Refused("There is no expression yet: say which object is meant, for example “the left cup”.")
    if len(expressions) > MAX_EXPRESSIONS:
        raise Refused(f"These are {len(expressions)} expressions: ask for {MAX_EXPRESSIONS} at a time.")
    for expression in expressions:
        if len(expression) > MAX_CHARACTERS:
            raise Refused(f"“{shown(expression)}” has {len(expression)} characters: {MAX_CHARACTERS} are the most.")
        try:
            whole = tokenizer.fits(expression)
        except UserError as error:
            raise Refused(f"“{shown(expression)}” has no word: say which object is meant.") from error
        if not whole:
            raise Refused(
                f"“{shown(expression)}” is too long: this model reads {tokenizer.max_tokens - 2} pieces of words."
            )
    return expressions


def shown(text: str) -> str:
    """Text of a user as part of a line."""
    return text if len(text) <= 60 else text[:59] + "…"
