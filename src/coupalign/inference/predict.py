"""Predictions for image files, written as files and lines of JSON."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from coupalign.config import Config
from coupalign.data.images import load_image
from coupalign.errors import UserError
from coupalign.files import find_file, make_directory
from coupalign.inference.predictor import Predictor
from coupalign.overlay import overlay, write_png

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_logger = logging.getLogger(__name__)


def predict(
    config: Config,
    checkpoint: str | os.PathLike,
    images: Sequence[str | os.PathLike],
    expressions: Sequence[str],
    output: str | os.PathLike,
) -> int:
    """Writes a mask and an overlay for each image and expression to the directory `output`, and prints a line of JSON.

    A line holds ``image``, ``expression``, the files ``mask`` and ``overlay``, ``area`` (share of the image), ``box``
    ([x, y, width, height] in pixels, or null for an empty mask), ``score`` and ``warnings``, which also go
    to stderr. An image that cannot be read gets a line with ``image`` and ``error`` if there are other images.

    Args:
        images: image files, and directories whose images are all predicted.

    Returns: the number of images that could not be read.

    Raises: UserError as ``Predictor`` and ``Predictor.predict``, or if the only image cannot be read.
    """
    paths = [path for image in images for path in find_images(image)]
    if len(paths) == 1:
        load_image(paths[0])  # report a damaged image before the model is built
    predictor = Predictor(checkpoint, config=config)
    for expression in expressions:
        predictor.encode(expression)  # report a wrong expression before anything is written
        for warning in predictor.tokenizer.warnings(expression):
            _logger.warning("%r: %s", expression, warning)
    make_directory(output)
    failed = 0
    for path in paths:
        try:
            rgb = load_image(path)
        except UserError as error:
            failed += 1
            print(json.dumps({"image": str(path), "error": str(error)}), flush=True)
            continue
        for expression in expressions:
            prediction = predictor.predict(rgb, expression)
            stem = Path(output).expanduser() / file_stem(path, expression)
            files = {kind: f"{stem}.{kind}.png" for kind in ("mask", "overlay")}
            write_png(files["mask"], prediction.mask)
            write_png(files["overlay"], overlay(rgb, prediction.mask))
            record = {
                "image": str(path),
                "expression": expression,
                **files,
                "area": round(float(prediction.mask.mean()), 6),
                "box": prediction.box,
                "score": round(prediction.score, 6),
                "warnings": prediction.warnings,
            }
            print(json.dumps(record), flush=True)
    return failed


def find_images(path: str | os.PathLike) -> list[Path]:
    """A file, or the files of a directory with the suffix of an image, sorted by name. Raises: UserError."""
    path = find_file(path)
    found = [path]
    if path.is_dir():
        found = sorted(each for each in path.iterdir() if each.suffix.lower() in IMAGE_SUFFIXES and each.is_file())
    if not found:
        raise UserError(f"directory {path} has no images ({' '.join(IMAGE_SUFFIXES)}): check its path")
    return found


def file_stem(image: str | os.PathLike, expression: str) -> str:
    """The start of the names of a prediction's files: readable, and different for each image path and expression."""
    digest = hashlib.sha256(os.fsencode(os.path.abspath(image)) + b"\0" + os.fsencode(expression)).hexdigest()
    return f"{slug(Path(image).stem)}-{slug(expression)}-{digest[:10]}"


def slug(text: str) -> str:
    """Letters and digits of `text` in lower case, in any script, joined by hyphens; at most 60 bytes of UTF-8."""
    words = re.findall(r"[^\W_]+", unicodedata.normalize("NFC", text).lower())
    return "-".join(words).encode("utf-8", "ignore")[:60].decode("utf-8", "ignore").strip("-") or "x"
