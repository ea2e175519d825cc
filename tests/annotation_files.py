"""Scenes of RefShapes written as other programs write annotations. Nothing of the package is used.

``python -m tests.annotation_files data/refshapes/source data/photos`` writes twenty images of testA with LabelMe files.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from tests.refshapes_files import Files


class Drawn(NamedTuple):
    """An object of a scene."""

    number: int  # different for all objects of all scenes, from 1
    label: str
    mask: np.ndarray  # (H, W) bool
    expressions: list[str]


class Scene(NamedTuple):
    """An image and its objects."""

    image: str  # file name
    objects: list[Drawn]

    @property
    def size(self) -> tuple[int, int]:
        return self.objects[0].mask.shape


def read_scenes(refshapes: Files, split: str, count: int) -> list[Scene]:
    """The first images of a split, with the objects that have expressions."""
    refs_of: dict[int, list] = {}
    for ref in refshapes.refs:
        if ref["split"] == split:
            refs_of.setdefault(ref["image_id"], []).append(ref)
    scenes = []
    for image_id, refs in sorted(refs_of.items())[:count]:
        masks = {item.ann_id: item.mask for item in refshapes.items(image_id)}
        objects = []
        for ref in refs:
            said = [sentence["sent"] for sentence in ref["sentences"]]
            label = refshapes.categories[ref["category_id"]]
            objects.append(Drawn(ref["ann_id"], label, masks[ref["ann_id"]], said))
        scenes.append(Scene(refshapes.images[image_id]["file_name"], objects))
    return scenes


def row_boxes(mask: np.ndarray) -> Iterator[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom), one pixel high, that cover exactly a mask."""
    for y, row in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.pad(row, 1).astype(int)))
        for left, right in zip(edges[::2].tolist(), edges[1::2].tolist()):
            yield left, y, right, y + 1


def bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """First and last pixel of a mask: left, top, right, bottom."""
    rows, columns = np.nonzero(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def labelme_masks(scenes: list[Scene], directory: Path) -> None:
    def shapes(drawn: Drawn) -> list[dict]:
        left, top, right, bottom = bounds(drawn.mask)
        file = io.BytesIO()
        Image.fromarray(drawn.mask[top : bottom + 1, left : right + 1]).save(file, "PNG")
        points = [[left, top], [right, bottom]]
        return [{"shape_type": "mask", "points": points, "mask": base64.b64encode(file.getvalue()).decode()}]

    _labelme(scenes, directory, shapes)


def labelme_boxes(scenes: list[Scene], directory: Path) -> None:
    def shapes(drawn: Drawn) -> list[dict]:
        boxes = [[[left, top], [right, bottom]] for left, top, right, bottom in row_boxes(drawn.mask)]
        return [{"shape_type": "rectangle", "points": points, "group_id": drawn.number} for points in boxes]

    _labelme(scenes, directory, shapes)


def _labelme(scenes: list[Scene], directory: Path, shapes_of: Callable[[Drawn], list[dict]]) -> None:
    for scene in scenes:
        shapes = []
        for drawn in scene.objects:
            about = {"label": drawn.label, "description": "\n".join(drawn.expressions), "group_id": None, "flags": {}}
            shapes += [{**about, **shape} for shape in shapes_of(drawn)]
        height, width = scene.size
        content = {"version": "5.5.0", "shapes": shapes, "imagePath": f"..\\images\\{scene.image}", "imageData": None}
        content |= {"imageHeight": height, "imageWidth": width}
        (directory / scene.image).with_suffix(".json").write_text(json.dumps(content))


def cvat_masks(scenes: list[Scene], directory: Path) -> None:
    def shapes(drawn: Drawn) -> list[tuple[str, dict]]:
        left, top, right, bottom = bounds(drawn.mask)
        pixels = drawn.mask[top : bottom + 1, left : right + 1].ravel()
        runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[False], pixels]))), prepend=0, append=pixels.size)
        values = {"rle": ", ".join(map(str, runs)), "left": left, "top": top}
        return [("mask", {**values, "width": right - left + 1, "height": bottom - top + 1})]

    _cvat(scenes, directory, shapes)


def cvat_boxes(scenes: list[Scene], directory: Path) -> None:
    def shapes(drawn: Drawn) -> list[tuple[str, dict]]:
        names = ("xtl", "ytl", "xbr", "ybr")
        return [("box", {**dict(zip(names, box)), "group_id": drawn.number}) for box in row_boxes(drawn.mask)]

    _cvat(scenes, directory, shapes)


def _cvat(scenes: list[Scene], directory: Path, shapes_of: Callable[[Drawn], list[tuple[str, dict]]]) -> None:
    lines = ["<?xml version='1.0' encoding='utf-8'?>", "<annotations><version>1.1</version>"]
    for number, scene in enumerate(scenes):
        height, width = scene.size
        lines.append(f'<image id="{number}" name="{scene.image}" width="{width}" height="{height}">')
        for drawn in scene.objects:
            text = "&#10;".join(drawn.expressions)
            for tag, values in shapes_of(drawn):
                written = " ".join(f"{name}={quoteattr(str(value))}" for name, value in values.items())
                lines.append(f'<{tag} label="{drawn.label}" occluded="0" {written}>')
                lines.append(f'<attribute name="expression">{text}</attribute></{tag}>')
        lines.append("</image>")
    (directory / "annotations.xml").write_text("\n".join([*lines, "</annotations>"]))


def coco_polygons(scenes: list[Scene], directory: Path) -> None:
    def polygons(mask: np.ndarray) -> list[list[int]]:
        return [[l, t, r, t, r, b, l, b] for l, t, r, b in row_boxes(mask)]  # noqa: E741

    _coco(scenes, directory, polygons)


def coco_runs(scenes: list[Scene], directory: Path) -> None:
    def runs(mask: np.ndarray) -> dict[str, Any]:
        encoded = coco.encode(np.asfortranarray(mask, np.uint8))
        return {"size": list(mask.shape), "counts": encoded["counts"].decode()}

    _coco(scenes, directory, runs)


def _crowd(mask: np.ndarray) -> dict[str, Any]:
    pixels = np.concatenate([[False], mask.T.ravel()])
    runs = np.diff(np.flatnonzero(np.diff(pixels)), prepend=0, append=mask.size)
    return {"size": list(mask.shape), "counts": runs.tolist()}


def coco_crowds(scenes: list[Scene], directory: Path) -> None:
    _coco(scenes, directory, _crowd)


def cvat_coco(scenes: list[Scene], directory: Path) -> None:
    """CVAT's export to COCO: masks are crowds, attributes an object of their own."""
    _coco(scenes, directory, _crowd, attributes=True)


def _coco(scenes: list[Scene], directory: Path, segmentation: Callable, attributes: bool = False) -> None:
    labels = sorted({drawn.label for scene in scenes for drawn in scene.objects})
    content: dict[str, list] = {"images": [], "annotations": []}
    content["categories"] = [{"id": number, "name": label} for number, label in enumerate(labels, 1)]
    rows = []
    for image_id, scene in enumerate(scenes, 100):
        height, width = scene.size
        content["images"].append({"id": image_id, "file_name": scene.image, "height": height, "width": width})
        for drawn in scene.objects:
            entry = {"id": drawn.number, "image_id": image_id, "category_id": labels.index(drawn.label) + 1}
            entry |= {"segmentation": segmentation(drawn.mask), "iscrowd": int(segmentation is _crowd)}
            if attributes:
                entry["attributes"] = {"occluded": False, "expression": "\n".join(drawn.expressions)}
            content["annotations"].append(entry)
            rows += [[drawn.number, expression] for expression in drawn.expressions]
    (directory / "instances.json").write_text(json.dumps(content))
    if not attributes:
        _write_table(directory / "table.csv", ["annotation", "expression"], rows)


def index_masks(scenes: list[Scene], directory: Path) -> None:
    rows = []
    for scene in scenes:
        indices = np.zeros(scene.size, np.uint8)
        for index, drawn in enumerate(scene.objects, 1):
            indices[drawn.mask] = index
            rows += [[f"{Path(scene.image).stem}.png", index, each, drawn.label] for each in drawn.expressions]
        Image.fromarray(indices).save(directory / f"{Path(scene.image).stem}.png")
    _write_table(directory / "table.csv", ["file", "index", "expression", "category"], rows)


def colour_masks(scenes: list[Scene], directory: Path) -> None:
    rows = []
    for scene in scenes:
        colours = np.zeros((*scene.size, 3), np.uint8)
        for index, drawn in enumerate(scene.objects, 1):
            colour = (index, 255 - index, 7)
            colours[drawn.mask] = colour
            written = "#{:02X}{:02x}{:02x}".format(*colour)
            rows += [[f"{Path(scene.image).stem}.png", written, each, drawn.label] for each in drawn.expressions]
        Image.fromarray(colours).save(directory / f"{Path(scene.image).stem}.png")
    _write_table(directory / "table.csv", ["file", "colour", "expression", "category"], rows, delimiter=";")


def _write_table(path: Path, columns: list[str], rows: list[list], delimiter: str = ",") -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([columns, *rows])


# Each writer, with the format that it writes and the file below its directory that --annotations names.
WRITERS = [
    (labelme_masks, "labelme", ""),
    (labelme_boxes, "labelme", ""),
    (cvat_masks, "cvat", "annotations.xml"),
    (cvat_boxes, "cvat", "annotations.xml"),
    (coco_polygons, "coco", "instances.json"),
    (coco_runs, "coco", "instances.json"),
    (coco_crowds, "coco", "instances.json"),
    (cvat_coco, "coco", "instances.json"),
    (index_masks, "masks", ""),
    (colour_masks, "masks", ""),
]


def main(source: str, output: str) -> None:
    """Writes twenty images and their LabelMe files into one directory."""
    directory, refshapes = Path(output), Files(Path(source))
    directory.mkdir(parents=True)
    scenes = read_scenes(refshapes, "testA", 20)
    for scene in scenes:
        shutil.copy(refshapes.directory / "images" / scene.image, directory)
    labelme_masks(scenes, directory)


if __name__ == "__main__":
    main(*sys.argv[1:])
