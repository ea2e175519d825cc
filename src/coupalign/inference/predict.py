"""Predictions for one image as files and lines of JSON."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from coupalign.config import Config
from coupalign.data.transform import load_image
from coupalign.files import make_directory
from coupalign.inference.predictor import Predictor
from coupalign.overlay import overlay, write_png


def predict(
    config: Config,
    checkpoint: str | os.PathLike,
    image: str | os.PathLike,
    expressions: Sequence[str],
    output: str | os.PathLike,
) -> None:
    """Writes a mask and an overlay for each expression to the directory `output`, and prints a line of JSON each.

    A line holds ``image``, ``expression``, the files ``mask`` and ``overlay``, ``area`` (share of the image),
    ``box`` ([x, y, width, height] in pixels, or null for an empty mask) and ``max_probability``.

    Raises: UserError as ``Predictor`` does, before anything is written.
    """
    rgb = load_image(image)
    predictor = Predictor(config, checkpoint)
    for expression in expressions:
        predictor.tokenizer.encode(expression)
    make_directory(output)
    for number, expression in enumerate(expressions, 1):
        prediction = predictor.predict(rgb, expression)
        stem = Path(output) / f"{slug(Path(image).stem)}-{number}-{slug(expression)}"
        files = {kind: f"{stem}.{kind}.png" for kind in ("mask", "overlay")}
        write_png(files["mask"], prediction.mask)
        write_png(files["overlay"], overlay(rgb, prediction.mask))
        line = {
            "image": str(image),
            "expression": expression,
            **files,
            "area": round(float(prediction.mask.mean()), 6),
            "box": box(prediction.mask),
            "max_probability": round(float(prediction.probability.max()), 6),
        }
        print(json.dumps(line, ensure_ascii=False), flush=True)


def box(mask: np.ndarray) -> list[int] | None:
    """[x, y, width, height] of the smallest box around the true pixels of `mask` (H, W); None without any."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]


def slug(text: str) -> str:
    """`text` as part of a file name on any system."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "x"
