"""Images checked and masks drawn, by several processes, into files that a later run finds again."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from coupalign.data.images import encode_record
from coupalign.data.masks import annotation_mask
from coupalign.data.plain_pickle import load_plain_pickle
from coupalign.data.referents import Image, Problem, Problems, ReferDataset, Referent
from coupalign.data.workers import map_in_order
from coupalign.errors import UserError
from coupalign.files import atomic_path

SCENES_AT_ONCE = 128


@dataclass(frozen=True)
class Scene:
    """An image, the referents of one split on it, and all annotations on it by ann_id."""

    image: Image
    referents: tuple[Referent, ...]
    annotations: Mapping[int, Mapping[str, Any]]


@dataclass(frozen=True)
class Pixels:
    """What is drawn of a scene.

    Attributes:
        image: bytes to keep instead of the image file's own; empty where those are kept.
        masks: by ref_id, a PNG of 0 and 255 at the image's size; without those that have a problem.
        baselines: by ref_id, four numbers of pixels of the image: intersection and union of the target with all objects
            of its class, and with the image's largest object.
        problems: what could not be used.
    """

    image: bytes
    masks: Mapping[int, bytes]
    baselines: Mapping[int, Sequence[int]]
    problems: Sequence[Problem]


def scenes_of(dataset: ReferDataset, split: str) -> list[Scene]:
    """The scenes of a split in the order of their first referents."""
    by_image: dict[int, list[Referent]] = {}
    for referent in dataset.of_split(split):
        by_image.setdefault(referent.image_id, []).append(referent)
    return [
        Scene(
            dataset.images[image_id],
            tuple(referents),
            {ann_id: dataset.annotations[ann_id] for ann_id in dataset.annotations_of[image_id]},
        )
        for image_id, referents in by_image.items()
    ]


def convert(
    scenes: Sequence[Scene], directory: Path, name: str, skip: bool, workers: int
) -> Iterator[tuple[Path, int]]:
    """Draws scenes, 128 to a file of `directory`, leaving alone the files that are there already.

    Args:
        name: of the files, with a number behind.
        skip: put what cannot be used into `Pixels.problems`, rather than raise the first one.
        workers: processes.

    Yields: each file, in order, with the number of its scenes.
    Raises: UserError; the files finished before stay.
    """
    jobs = [
        (scenes[start : start + SCENES_AT_ONCE], directory / f"{name}.{start // SCENES_AT_ONCE:05d}.pkl", skip)
        for start in range(0, len(scenes), SCENES_AT_ONCE)
    ]
    done = map_in_order(_convert_scenes, jobs, min(workers, len(jobs)))
    for (part, path, _), _ in zip(jobs, done, strict=True):
        yield path, len(part)


def read_pixels(path: Path) -> list[Pixels]:
    """What `convert` drew, scene by scene."""
    return [
        Pixels(**{**drawn, "problems": [Problem(**problem) for problem in drawn["problems"]]})
        for drawn in load_plain_pickle(path)
    ]


def _convert_scenes(job: tuple[Sequence[Scene], Path, bool]) -> None:
    scenes, path, skip = job
    if path.is_file():
        return
    drawn = [asdict(_draw(scene, skip)) for scene in scenes]
    with atomic_path(path) as temporary:
        temporary.write_bytes(pickle.dumps(drawn, protocol=4))


def _draw(scene: Scene, skip: bool) -> Pixels:
    problems, image = Problems(skip), scene.image
    try:
        content = image.path.read_bytes()
        plain = encode_record(content, image.path, (image.height, image.width), image.as_stored)
    except (OSError, UserError) as error:
        message = f"image {image.path} cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error)
        problems.add(
            Problem(
                "image",
                str(image.path),
                message,
                len(scene.referents),
                sum(len(referent.sentences) for referent in scene.referents),
            )
        )
        return Pixels(b"", {}, {}, problems.found)
    masks: dict[int, np.ndarray] = {}
    wrong: dict[int, str] = {}
    for ann_id, annotation in scene.annotations.items():
        try:
            masks[ann_id] = annotation_mask(annotation, image.height, image.width)
        except UserError as error:
            # Of an annotation that nobody refers to it does not matter.
            wrong[ann_id] = str(error)
    kept = []
    for referent in scene.referents:
        if referent.ann_id in masks:
            kept.append(referent)
        else:
            problems.add(
                Problem("mask", f"annotation {referent.ann_id}", wrong[referent.ann_id], 1, len(referent.sentences))
            )
    return Pixels(
        b"" if plain is content else plain,
        {referent.ref_id: _png(masks[referent.ann_id]) for referent in kept},
        {referent.ref_id: _baselines(referent.ann_id, scene.annotations, masks) for referent in kept},
        problems.found,
    )


def _png(mask: np.ndarray) -> bytes:
    return cv2.imencode(".png", mask.astype(np.uint8) * 255)[1].tobytes()


def _baselines(ann_id: int, annotations: Mapping[int, Mapping[str, Any]], masks: Mapping[int, np.ndarray]) -> list[int]:
    target, category = masks[ann_id], annotations[ann_id]["category_id"]
    of_class = np.zeros_like(target)
    largest = target
    for other, mask in masks.items():
        if annotations[other]["category_id"] == category:
            of_class |= mask
        if mask.sum() > largest.sum():
            largest = mask
    return [
        int(np.sum(pixels)) for pixels in (target & of_class, target | of_class, target & largest, target | largest)
    ]
