"""Small annotations of two photos, as LabelMe, COCO and mask editors write them, and what became of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from coupalign.annotations.convert import AnnotationSource
from coupalign.data.json_lines import read_json_lines

SQUARE = np.pad(np.ones((10, 20), bool), ((5, 25), (10, 30)))  # in an image of 40 x 60 pixels


def lines_of(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "annotations.jsonl").read_text().splitlines()]


def left_out_of(output: Path) -> list[tuple[str, str]]:
    lines = map(json.loads, (output / "left_out.jsonl").read_text().splitlines())
    return [(line["reason"], line["name"]) for line in lines]


def masks_of(output: Path) -> list[np.ndarray]:
    dataset = read_json_lines(output / "annotations.jsonl", output)
    return [np.logical_or.reduce([dataset.mask(ann_id) for ann_id in each.ann_ids]) for each in dataset.referents]


def write_labelme(photos: Path, *shapes: dict, name: str = "desk", **fields) -> None:
    image = {"imagePath": f"{name}.jpg", "imageHeight": 40, "imageWidth": 60, "imageData": None}
    (photos / f"{name}.json").write_text(json.dumps({**image, "shapes": list(shapes), **fields}))


def shape(kind: str, points: list, label: str = "cup", **fields) -> dict:
    return {"shape_type": kind, "points": points, "label": label, **fields}


CUP = shape("rectangle", [[10, 5], [30, 15]])


def write_coco(photos: Path, *annotations: dict, **fields) -> Path:
    images = [{"id": 1, "file_name": "desk.jpg", "height": 40, "width": 60}, {"id": 2, "file_name": "none.jpg"}]
    content = {"images": images, "categories": [{"id": 3, "name": "cup"}], "annotations": list(annotations)}
    path = photos / "instances.json"
    path.write_text(json.dumps({**content, **fields}))
    return path


POLYGON = {"id": 7, "image_id": 1, "category_id": 3, "segmentation": [[10, 5, 30, 5, 30, 15, 10, 15]]}


def masks_case(photos: Path, table: str, mask: Image.Image | None = None) -> tuple[AnnotationSource, Path]:
    masks = photos.parent / "masks"
    masks.mkdir()
    (mask or Image.fromarray(SQUARE.astype(np.uint8) * 3 + 2)).save(masks / "desk.png")
    (photos.parent / "table.csv").write_text(table)
    return AnnotationSource("masks", masks, photos, photos.parent / "table.csv"), photos.parent / "out"
