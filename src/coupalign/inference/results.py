"""Files of predictions: masks, overlays, probability maps and run lengths, which a later run finds again."""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from coupalign.data.masks import run_lengths
from coupalign.files import atomic_path, make_directory, write_text
from coupalign.inference.prediction import Prediction
from coupalign.overlay import overlay, write_png


class Results:
    """The directory of predictions, with three files for each image and expression, or four.

    The names start with ``file_stem``, so no two predictions share a file. Every file is written completely or not at
    all. The last one is the .json, which holds the figures and what the prediction was made from.

    Args:
        directory: made if it is missing.
        model: a text that differs for models whose predictions may differ.
        probability: whether to keep probability maps.

    Raises: UserError if a file cannot be written. All methods raise the same.
    """

    def __init__(self, directory: str | os.PathLike, model: str, probability: bool = False):
        self._directory = make_directory(directory)
        self._model = model
        self._kinds = {"mask": ".mask.png", "overlay": ".overlay.png"}
        if probability:
            self._kinds["probability"] = ".probability.npy"

    def find(self, image: Path, content: bytes, expression: str) -> dict[str, Any] | None:
        """The record that an earlier run wrote for the same model, image `content` and expression, or None."""
        try:
            saved = json.loads(self._path(image, expression, ".json").read_text(encoding="utf-8"))
            same = saved["made_from"] == self._made_from(content)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        files = self._files(image, expression)
        return {**saved, "image": str(image), **files} if same and all(map(os.path.isfile, files.values())) else None

    def write(self, image: Path, content: bytes, rgb: np.ndarray, expression: str, found: Prediction) -> dict[str, Any]:
        """Writes the files of a prediction for `rgb` (H, W, 3) uint8, the pixels of `content`; returns its record."""
        files, json_file = self._files(image, expression), self._path(image, expression, ".json")
        json_file.unlink(missing_ok=True)  # or it would describe another prediction after an interruption
        write_png(files["mask"], found.mask)
        write_png(files["overlay"], overlay(rgb, found.mask))
        if "probability" in files:
            with atomic_path(files["probability"]) as temporary:
                np.save(temporary, found.probability)
        judged = {}
        if found.existence is not None:
            judged = {"existence": round(found.existence, 6), "nothing_fits": found.nothing_fits}
        record = {
            "image": str(image),
            "expression": expression,
            **{kind: os.path.basename(name) for kind, name in files.items()},
            "area": round(float(found.mask.mean()), 6),
            "box": found.box,
            "score": round(found.score, 6),
            **judged,
            "warnings": found.warnings,
            "segmentation": run_lengths(found.mask),
            "made_from": self._made_from(content),
        }
        write_text(json_file, json.dumps(record) + "\n")
        return {**record, **files}

    def _files(self, image: Path, expression: str) -> dict[str, str]:
        return {kind: str(self._path(image, expression, suffix)) for kind, suffix in self._kinds.items()}

    def _path(self, image: Path, expression: str, suffix: str) -> Path:
        return self._directory / f"{file_stem(image, expression)}{suffix}"

    def _made_from(self, content: bytes) -> str:
        return hashlib.sha256(self._model.encode() + hashlib.sha256(content).digest()).hexdigest()


def write_coco(path: str | os.PathLike, records: Iterable[dict[str, Any]]) -> None:
    """Writes records of ``Results`` as one COCO file, which ``pycocotools.coco.COCO`` reads; the areas are in pixels."""
    images: dict[str, dict] = {}
    annotations = []
    for number, record in enumerate(records, 1):
        height, width = record["segmentation"]["size"]
        image = {"id": len(images) + 1, "file_name": record["image"], "height": height, "width": width}
        annotation = {
            "id": number,
            "image_id": images.setdefault(record["image"], image)["id"],
            "category_id": 1,
            "expression": record["expression"],
            "segmentation": record["segmentation"],
            "area": round(record["area"] * height * width),
            "bbox": record["box"] or [0, 0, 0, 0],
            "score": record["score"],
            "iscrowd": 0,
        }
        annotations.append(annotation)
    content = {"images": list(images.values()), "annotations": annotations}
    write_text(path, json.dumps({**content, "categories": [{"id": 1, "name": "referent"}]}) + "\n")


def file_stem(image: str | os.PathLike, expression: str) -> str:
    """The start of the names of a prediction's files: readable, and different for each image path and expression."""
    digest = hashlib.sha256(os.fsencode(os.path.abspath(image)) + b"\0" + os.fsencode(expression)).hexdigest()
    return f"{slug(Path(image).stem)}-{slug(expression)}-{digest[:10]}"


def slug(text: str) -> str:
    """Letters and digits of `text` in lower case, in any script, joined by hyphens; at most 60 bytes of UTF-8."""
    words = re.findall(r"[^\W_]+", unicodedata.normalize("NFC", text).lower())
    return "-".join(words).encode("utf-8", "ignore")[:60].decode("utf-8", "ignore").strip("-") or "x"
