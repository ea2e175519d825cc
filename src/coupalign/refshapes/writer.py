"""Writes RefShapes in the layout of the REFER tool, and prepares it."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle
from tqdm import tqdm

from coupalign.data.prepare import Prepared, prepare
from coupalign.data.refer import read_refer
from coupalign.data.referents import ReferDataset
from coupalign.data.tokenizer import Tokenizer
from coupalign.data.workers import map_in_order
from coupalign.errors import UserError
from coupalign.files import make_directory
from coupalign.refshapes.dice import Dice
from coupalign.refshapes.drawing import palette
from coupalign.refshapes.expressions import make_expressions
from coupalign.refshapes.scene import FACTORS, OBJECTS, make_scene

_VERSION = 1  # of drawing and wording; another version is another data set
_SETTINGS_FILE = "refshapes.json"
_SPLITS = ("train", "val", "testA", "testB")
_SCENES_AT_ONCE = 16


@dataclass(frozen=True)
class RefShapesSettings:
    """Settings of a RefShapes data set."""

    expressions: int = 20000  # in train; each other split has a tenth
    seed: int = 1

    def __post_init__(self) -> None:
        if self.expressions < 10:
            raise UserError(f"RefShapes needs 10 expressions or more, not {self.expressions}: raise --expressions")
        if not 0 <= self.seed < 2**31:
            raise UserError(f"the seed of RefShapes is 0 to {2**31 - 1}, not {self.seed}: choose another --seed")


def write_refshapes(directory: Path, settings: RefShapesSettings, workers: int = 1) -> bool:
    """Writes the data set of `settings` to `directory`: images/, instances.json, refs(refshapes).p.

    Pixels, annotations and expressions are the same on every machine and with any number of workers. A complete data set
    of the same settings is kept; one of other settings is replaced; the directory appears only once it is complete.

    Returns: Whether files were written. Raises: UserError if `directory` holds something else.
    """
    recipe = _json({"version": _VERSION, **asdict(settings)})
    if directory.exists():
        marker = directory / _SETTINGS_FILE
        if not marker.is_file():
            raise UserError(f"{directory} exists and is not a RefShapes data set: choose another directory")
        if marker.read_text() == recipe:
            return False
    make_directory(directory.parent)
    temporary = directory.with_name(f".{directory.name}.{uuid.uuid4().hex[:8]}")
    try:
        make_directory(temporary / "images")
        _write_files(temporary, settings, workers)
        (temporary / _SETTINGS_FILE).write_text(recipe)
        if directory.exists():
            shutil.rmtree(directory)
        temporary.rename(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def prepare_refshapes(output: Path, settings: RefShapesSettings, tokenizer: Tokenizer, workers: int = 1) -> Prepared:
    """Makes RefShapes in ``<output>/source`` and prepares it in `output`. Raises: UserError."""
    write_refshapes(output / "source", settings, workers)
    return prepare(read_refshapes(output), "refshapes", output, tokenizer, workers=workers)


def read_refshapes(output: Path, skip: bool = False) -> ReferDataset:
    """Reads the data set in ``<output>/source``; `skip` as in `read_refer`. Raises: UserError."""
    source = output / "source"
    if not source.exists():
        raise UserError(f"{output} holds no RefShapes data set: run prepare_data.py without --check to make it")
    return read_refer(source, source / "images", "refshapes", skip)


def _write_files(directory: Path, settings: RefShapesSettings, workers: int) -> None:
    images: list[dict] = []
    annotations: list[dict] = []
    refs: list[dict] = []
    sentences = 0
    for split in _SPLITS:
        for number, record in enumerate(_records(split, settings, workers)):
            image_id = len(images) + 1
            name = f"{split}_{number:06d}.png"
            (directory / "images" / name).write_bytes(record["png"])
            images.append({"id": image_id, "file_name": name, "height": record["height"], "width": record["width"]})
            first = len(annotations) + 1
            for annotation in record["annotations"]:
                annotations.append({"id": len(annotations) + 1, "image_id": image_id, **annotation})
            for thing, expressions in record["refs"]:
                ids = list(range(sentences, sentences + len(expressions)))
                sentences += len(ids)
                said = [
                    {"sent_id": i, "sent": text, "raw": text, "tokens": text.split(), "family": family}
                    for i, (family, text) in zip(ids, expressions, strict=True)
                ]
                category = record["annotations"][thing]["category_id"]
                ref = {"ref_id": len(refs) + 1, "ann_id": first + thing, "image_id": image_id, "file_name": name}
                refs.append({**ref, "category_id": category, "split": split, "sent_ids": ids, "sentences": said})
    categories = [{"id": i, "name": shape, "supercategory": "shape"} for i, shape in enumerate(FACTORS["shape"], 1)]
    info = {"description": "RefShapes, a synthetic data set"}
    instances = {"images": images, "annotations": annotations, "categories": categories, "info": info}
    (directory / "instances.json").write_text(_json(instances))
    (directory / "refs(refshapes).p").write_bytes(_pickle(refs))


def _records(split: str, settings: RefShapesSettings, workers: int) -> Iterator[dict]:
    """Yields scenes until they have exactly the required number of expressions; the last may lose some."""
    left = settings.expressions if split == "train" else settings.expressions // 10
    # In chunks, because drawing a scene takes less time than sending it between processes.
    chunks = ((split, range(start, start + _SCENES_AT_ONCE), settings.seed) for start in count(0, _SCENES_AT_ONCE))
    drawn = map_in_order(_chunk, chunks, workers)
    with closing(drawn), tqdm(total=left, desc=f"RefShapes {split}", unit=" expressions", disable=None) as progress:
        for record in chain.from_iterable(drawn):
            kept = []
            for thing, expressions in record["refs"]:
                expressions = expressions[:left]
                left -= len(expressions)
                progress.update(len(expressions))
                if expressions:
                    kept.append((thing, expressions))
            if kept:
                yield {**record, "refs": kept}
            if not left:
                return


def _chunk(job: tuple[str, range, int]) -> list[dict]:
    split, numbers, seed = job
    return [draw_record(split, number, seed) for number in numbers]


def draw_record(split: str, number: int, seed: int) -> dict:
    """Returns a scene: picture, annotations, and (index of a thing, [(family, text), ...]) for its referents."""
    dice = Dice(seed, _SPLITS.index(split), number)
    scene = make_scene(dice, OBJECTS[split], unseen_pairs=split == "testA")
    refs = []
    for index in dice.some(scene.referents(split == "testA"), dice.between(2, 3)):
        expressions = make_expressions(scene.things, index, dice.between(2, 4), dice)
        if expressions:
            refs.append((index, [(expression.family, expression.text) for expression in expressions]))
    annotations = []
    for index, thing in enumerate(scene.things):
        mask = scene.labels == index
        counts = rle.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode("ascii")
        annotation: dict[str, Any] = {"category_id": FACTORS["shape"].index(thing.kind.shape) + 1, "iscrowd": 0}
        annotation |= {"area": int(mask.sum()), "bbox": list(thing.box), "attributes": asdict(thing.kind)}
        annotations.append({**annotation, "segmentation": {"size": list(mask.shape), "counts": counts}})
    height, width = scene.labels.shape
    return {"png": _png(scene.image), "height": height, "width": width, "annotations": annotations, "refs": refs}


def _png(indices: np.ndarray) -> bytes:
    picture = Image.fromarray(indices, "P")
    picture.putpalette(palette().tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _pickle(value: object) -> bytes:
    """Pickles with protocol 2 and without a memo, so that the bytes do not depend on object identity."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=2)
    pickler.fast = True
    pickler.dump(value)
    return buffer.getvalue()
