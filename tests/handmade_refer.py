"""A REFER data set made by hand, with masks one can count on paper."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np


def rectangle(left: int, top: int, right: int, bottom: int) -> list[int]:
    """A polygon whose pixels are exactly [top:bottom, left:right]."""
    return [left, top, right, top, right, bottom, left, bottom]


class Handmade:
    """Two images (one JPEG, 40 x 60; one PNG, 50 x 30 pixels) and three referents, one annotation among them shared.

    Attributes:
        refs, instances: to be changed before `write`.
        masks: bool by ann_id, as NumPy draws them.
        pixels: (H, W, 3) uint8 RGB by image_id, as OpenCV decodes the files.
    """

    def __init__(self, directory: Path):
        self.annotations, self.images = directory / "annotations", directory / "images"
        self.instances: dict[str, Any] = {
            "images": [
                {"id": 7, "file_name": "a.jpg", "height": 40, "width": 60},
                {"id": 9, "file_name": "b.png", "height": 50, "width": 30},
            ],
            "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "dog"}],
            "annotations": [
                {"id": 1, "image_id": 7, "category_id": 1, "iscrowd": 0, "segmentation": [rectangle(10, 5, 30, 15)]},
                {"id": 2, "image_id": 7, "category_id": 1, "iscrowd": 0, "segmentation": [rectangle(40, 20, 50, 30)]},
                {"id": 3, "image_id": 7, "category_id": 2, "iscrowd": 0, "segmentation": [rectangle(0, 20, 36, 40)]},
                {"id": 4, "image_id": 9, "category_id": 2, "iscrowd": 0, "segmentation": [rectangle(5, 5, 15, 45)]},
            ],
        }
        self.refs = [
            self.ref(20, 1, 7, 1, "train", {200: "the left cup", 201: "upper cup"}),
            self.ref(21, 1, 7, 1, "train", {210: "cup that is on top of the other one"}),
            self.ref(22, 4, 9, 2, "val", {220: "dog", 221: "DOG, standing!", 222: 'the “café” dog\'s "tail"; drop'}),
        ]
        self.masks = {i: np.zeros((40, 60), bool) for i in (1, 2, 3)} | {4: np.zeros((50, 30), bool)}
        self.masks[1][5:15, 10:30] = self.masks[2][20:30, 40:50] = self.masks[3][20:40, 0:36] = True
        self.masks[4][5:45, 5:15] = True
        self.images.mkdir(parents=True)
        self.annotations.mkdir()
        random = np.random.default_rng(0)
        self.pixels = {}
        for image in self.instances["images"]:
            path = self.images / image["file_name"]
            # Smooth, so that a decoder that goes another way about JPEG's colours would show.
            coarse = random.integers(0, 256, (5, 5, 3), np.uint8)
            cv2.imwrite(str(path), cv2.resize(coarse, (image["width"], image["height"])))
            self.pixels[image["id"]] = cv2.imread(str(path))[..., ::-1]

    @staticmethod
    def ref(ref_id: int, ann_id: int, image_id: int, category_id: int, split: str, said: dict[int, str]) -> dict:
        return {
            "ref_id": ref_id,
            "ann_id": ann_id,
            "image_id": image_id,
            "category_id": category_id,
            "split": split,
            "file_name": f"COCO_{image_id}_{ann_id}.jpg",
            "sent_ids": list(said),
            "sentences": [
                {"sent_id": sent_id, "sent": text, "raw": text.upper(), "tokens": text.split()}
                for sent_id, text in said.items()
            ],
        }

    def generalise(self) -> None:
        """Makes it a gRefCOCO: 20 names annotations 1 and 5, which overlap, and the crowd 3; 21 nothing; 22 one object.

        Annotation 5 consists of two polygons that overlap.
        """
        runs = np.flatnonzero(np.diff(np.r_[0, self.masks[3].T.ravel(), 0])).tolist()  # column by column
        crowd = {"size": [40, 60], "counts": np.diff([0, *runs, 40 * 60]).tolist()}
        self.instances["annotations"][2].update(iscrowd=1, segmentation=crowd)
        parts = [rectangle(20, 10, 40, 20), rectangle(30, 15, 50, 25)]
        self.instances["annotations"].append({"id": 5, "image_id": 7, "category_id": 1, "segmentation": parts})
        self.masks[5] = np.zeros((40, 60), bool)
        self.masks[5][10:20, 20:40] = self.masks[5][15:25, 30:50] = True
        for ref, ann_id, category_id in zip(self.refs, ([1, 5, 3], [-1], [4]), ([1, 1, 2], [-1], [2])):
            ref.update(ann_id=ann_id, category_id=category_id, no_target=ann_id == [-1])

    def write_generalised(self) -> None:
        (self.annotations / "grefs(unc).json").write_text(json.dumps(self.refs))
        (self.annotations / "instances.json").write_text(json.dumps(self.instances))

    def write(self, split_by: str = "unc") -> None:
        (self.annotations / f"refs({split_by}).p").write_bytes(pickle.dumps(self.refs, protocol=2))
        (self.annotations / "instances.json").write_text(json.dumps(self.instances))
