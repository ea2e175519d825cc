"""A small RefShapes data set, read with nothing but json, pickle, pycocotools and OpenCV."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from pycocotools import mask as rle


class Item(NamedTuple):
    """An annotation as the pixels show it; centre and box (left, top, right, bottom) in pixels."""

    ann_id: int
    looks: dict
    mask: np.ndarray
    box: tuple[float, float, float, float]
    centre: tuple[float, float]


class Files:
    """Attributes: refs, images and annotations as read; `items(image_id)` in the order of drawing."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.refs = pickle.loads((directory / "refs(refshapes).p").read_bytes())
        instances = json.loads((directory / "instances.json").read_text())
        self.images = {image["id"]: image for image in instances["images"]}
        self.annotations = {annotation["id"]: annotation for annotation in instances["annotations"]}
        self.categories = {category["id"]: category["name"] for category in instances["categories"]}
        self._of_image: dict[int, list[dict]] = {}
        for annotation in instances["annotations"]:
            self._of_image.setdefault(annotation["image_id"], []).append(annotation)

    def items(self, image_id: int) -> list[Item]:
        return [self._item(annotation) for annotation in self._of_image[image_id]]

    def pixels(self, image_id: int) -> np.ndarray:
        """(H, W, 3) uint8, RGB."""
        return cv2.imread(str(self.directory / "images" / self.images[image_id]["file_name"]))[..., ::-1]

    def _item(self, annotation: dict) -> Item:
        mask = rle.decode(annotation["segmentation"]).astype(bool)
        rows, columns = np.nonzero(mask)
        left, right, top, bottom = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
        return Item(
            annotation["id"],
            annotation["attributes"],
            mask,
            (left, top, right, bottom),
            ((left + right) / 2, (top + bottom) / 2),
        )
