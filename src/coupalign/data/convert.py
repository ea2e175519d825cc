"""Checks images and draws masks in several processes, into part files that a later run finds again."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from coupalign.data.images import encode_record, read_content
from coupalign.data.masks import annotation_mask
from coupalign.data.mindrecord import MOST_OBJECTS, OBJECT_SIDE
from coupalign.data.plain_pickle import load_plain_pickle
from coupalign.data.referents import Image, Problem, Problems, ReferDataset, Referent
from coupalign.data.workers import map_in_order
from coupalign.errors import UserError
from coupalign.files import atomic_path

# A part holds at most so many scenes and so many pixels, which bounds the memory of a process.
SCENES_PER_PART = 128
_PIXELS_PER_PART = 1 << 25
MOST_IMAGE_BYTES = (1 << 28) - (1 << 10)  # a row of MindRecord holds 256 MB


@dataclass(frozen=True)
class Scene:
    """An image, the referents of one split on it, and all annotations on it by ann_id."""

    image: Image
    referents: tuple[Referent, ...]
    annotations: Mapping[int, Mapping[str, Any]]


@dataclass(frozen=True)
class Pixels:
    """The drawing of a scene. Masks and baselines are by ref_id, without those that have a problem."""

    image: bytes  # to store instead of the image file's own; empty if the file is stored unchanged
    image_bytes: int  # number of bytes that are stored
    objects: bytes  # PNG of 0 and 255 with small masks of all annotations, see ``objects_png``
    masks: Mapping[int, bytes]  # PNG of 0 and 255 at the image's size
    # Pixels: intersection and union of the target with all objects of its class, and with the image's largest object.
    baselines: Mapping[int, Sequence[int]]
    problems: Sequence[Problem]


class Part(NamedTuple):
    """A file of drawn scenes; `largest` is the size of the largest image in bytes."""

    scenes: Sequence[Scene]
    path: Path
    largest: int


def scenes_of(dataset: ReferDataset, split: str) -> list[Scene]:
    """Returns the scenes of a split in the order of their first referents."""
    by_image: dict[int, list[Referent]] = {}
    for referent in dataset.of_split(split):
        by_image.setdefault(referent.image_id, []).append(referent)
    scenes = []
    for image_id, referents in by_image.items():
        annotations = {ann_id: dataset.annotations[ann_id] for ann_id in dataset.annotations_of[image_id]}
        scenes.append(Scene(dataset.images[image_id], tuple(referents), annotations))
    return scenes


def convert(scenes: Sequence[Scene], directory: Path, name: str, skip: bool, workers: int) -> Iterator[Part]:
    """Draws scenes into part files ``<name>.<number>.pkl`` of `directory`, in order; existing ones are kept.

    With `skip`, problems are collected in `Pixels.problems`. Raises: UserError otherwise; finished files stay.
    """
    jobs = [(part, directory / f"{name}.{number:05d}.pkl", skip) for number, part in enumerate(_parts(scenes))]
    largest = map_in_order(_convert_scenes, jobs, min(workers, len(jobs)))
    for (part, path, _), size in zip(jobs, largest, strict=True):
        yield Part(part, path, size)


def read_part(part: Part) -> list[tuple[Scene, Pixels]]:
    """Reads the scenes of a part file."""
    return list(zip(part.scenes, _read_pixels(part.path), strict=True))


def _read_pixels(path: Path) -> list[Pixels]:
    drawn = load_plain_pickle(path)
    return [Pixels(**{**each, "problems": [Problem(**problem) for problem in each["problems"]]}) for each in drawn]


def _parts(scenes: Sequence[Scene]) -> Iterator[list[Scene]]:
    part: list[Scene] = []
    pixels = 0
    for scene in scenes:
        area = scene.image.height * scene.image.width
        if part and (len(part) == SCENES_PER_PART or pixels + area > _PIXELS_PER_PART):
            yield part
            part, pixels = [], 0
        part.append(scene)
        pixels += area
    if part:
        yield part


def _convert_scenes(job: tuple[Sequence[Scene], Path, bool]) -> int:
    """Writes the part file of some scenes; returns the size of the largest image that is stored."""
    scenes, path, skip = job
    if path.is_file():
        return max(pixels.image_bytes for pixels in _read_pixels(path))
    drawn = [_draw(scene, skip) for scene in scenes]
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        pickle.dump([asdict(pixels) for pixels in drawn], file, protocol=4)
    return max(pixels.image_bytes for pixels in drawn)


def _draw(scene: Scene, skip: bool) -> Pixels:
    problems, image = Problems(skip), scene.image
    sentences = sum(len(referent.sentences) for referent in scene.referents)
    try:
        content = read_content(image.path, f"image {image.path}")
        record = encode_record(content, image.path, (image.height, image.width), image.as_stored)
        if len(record) > MOST_IMAGE_BYTES:
            size, most = len(record) >> 20, MOST_IMAGE_BYTES >> 20
            raise UserError(
                f"image {image.path} takes {size:,} MB, a row of MindRecord holds {most} MB: make it smaller"
            )
    except UserError as error:
        problems.add(Problem("image", str(image.path), str(error), len(scene.referents), sentences))
        return Pixels(b"", 0, b"", {}, {}, problems.found)
    # One bit per pixel: an image may be large and have many annotations.
    masks: dict[int, np.ndarray] = {}
    wrong: dict[int, str] = {}  # only matters if a referent uses it
    for ann_id, annotation in scene.annotations.items():
        try:
            masks[ann_id] = np.packbits(annotation_mask(annotation, image.height, image.width))
        except UserError as error:
            wrong[ann_id] = str(error)
    targets: dict[int, np.ndarray] = {}
    empty = np.packbits(np.zeros(image.height * image.width, bool))
    for ref in scene.referents:
        damaged = next((ann_id for ann_id in ref.ann_ids if ann_id in wrong), None)
        if damaged is None:
            targets[ref.ref_id] = np.bitwise_or.reduce([empty, *(masks[ann_id] for ann_id in ref.ann_ids)])
        else:
            problems.add(Problem("mask", f"annotation {damaged}", wrong[damaged], 1, len(ref.sentences)))
    return Pixels(
        b"" if record is content else record,
        len(record),
        objects_png(masks.values(), image.height, image.width),
        {ref_id: _png(target, image) for ref_id, target in targets.items()},
        {
            referent.ref_id: _baselines(referent, targets[referent.ref_id], scene.annotations, masks)
            for referent in scene.referents
            if referent.ref_id in targets
        },
        problems.found,
    )


def _png(mask: np.ndarray, image: Image) -> bytes:
    pixels = np.unpackbits(mask, count=image.height * image.width).reshape(image.height, image.width)
    return cv2.imencode(".png", pixels * np.uint8(255))[1].tobytes()


def objects_png(masks: Iterable[np.ndarray], height: int, width: int) -> bytes:
    """Draws the masks of an image's objects for set prediction, one below the other: PNG of 0 and 255.

    Each is resized to OBJECT_SIDE x OBJECT_SIDE by nearest neighbour. There are always MOST_OBJECTS, the largest
    objects first; missing ones are empty.

    Args:
        masks: Packed bits of (height, width) each.
    """
    y, x = (np.arange(OBJECT_SIDE) * side // OBJECT_SIDE for side in (height, width))
    drawn = np.zeros((MOST_OBJECTS, OBJECT_SIDE, OBJECT_SIDE), np.uint8)
    for number, mask in enumerate(sorted(masks, key=_area, reverse=True)[:MOST_OBJECTS]):
        drawn[number] = np.unpackbits(mask, count=height * width).reshape(height, width)[y][:, x]
    return cv2.imencode(".png", drawn.reshape(-1, OBJECT_SIDE) * np.uint8(255))[1].tobytes()


def _area(mask: np.ndarray) -> int:
    return int(np.unpackbits(mask).sum())


def _baselines(
    referent: Referent,
    target: np.ndarray,
    annotations: Mapping[int, Mapping[str, Any]],
    masks: Mapping[int, np.ndarray],
) -> list[int]:
    of_class = np.zeros_like(target)
    categories = {annotations[ann_id]["category_id"] for ann_id in referent.ann_ids} or referent.category_ids
    largest = max((masks[ann_id] for ann_id in referent.ann_ids), key=_area, default=np.zeros_like(target))
    for other, mask in masks.items():
        if annotations[other]["category_id"] in categories:
            of_class |= mask
        if _area(mask) > _area(largest):
            largest = mask
    return [_area(pixels) for pixels in (target & of_class, target | of_class, target & largest, target | largest)]
