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
from typing import Any, NamedTuple

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
from coupalign.refshapes.generalised import SHARES, make_none, make_several
from coupalign.refshapes.scene import FACTORS, OBJECTS, make_scene

_VERSION = 1  # of drawing and wording; another version is another data set
_SETTINGS_FILE = "refshapes.json"
_SPLITS = ("train", "val", "testA", "testB")
_SCENES_AT_ONCE = 16
# Expressions of a scene that name several objects, and none: more than needed, since few scenes have so many.
_MOST_SEVERAL, _MOST_NONE = 6, 3


class Target(NamedTuple):
    """What expressions of a scene name."""

    kind: str  # a key of SHARES
    things: tuple[int, ...]  # indices
    shapes: tuple[str, ...]
    expressions: list[tuple[str, str]]  # (family, text)


@dataclass(frozen=True)
class RefShapesSettings:
    """Settings of a RefShapes data set."""

    expressions: int = 20000  # in train; each other split has a tenth
    seed: int = 1
    generalised: bool = False  # also expressions that name several objects or none, in gRefCOCO's shares

    def __post_init__(self) -> None:
        if self.expressions < 10:
            raise UserError(f"RefShapes needs 10 expressions or more, not {self.expressions}: raise --expressions")
        if not 0 <= self.seed < 2**31:
            raise UserError(f"the seed of RefShapes is 0 to {2**31 - 1}, not {self.seed}: choose another --seed")


def write_refshapes(directory: Path, settings: RefShapesSettings, workers: int = 1) -> bool:
    """Writes the data set of `settings` to `directory`: images/, instances.json, refs(refshapes).p.

    Pixels, annotations and expressions are the same on every machine and with any number of workers. A complete data
    set of the same settings is kept; one of other settings is replaced; the directory appears only once it is complete.
    Of a generalised one, the scenes and the expressions that name one object are the first of the plain one.

    Returns: Whether files were written. Raises: UserError if `directory` holds something else.
    """
    about = {"version": _VERSION, "expressions": settings.expressions, "seed": settings.seed}
    recipe = _json({**about, **({"generalised": True} if settings.generalised else {})})
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
            for target in record["refs"]:
                ids = list(range(sentences, sentences + len(target.expressions)))
                sentences += len(ids)
                said = [
                    {"sent_id": i, "sent": text, "raw": text, "tokens": text.split(), "family": family}
                    for i, (family, text) in zip(ids, target.expressions, strict=True)
                ]
                ann_ids = [first + thing for thing in target.things]
                shapes = [FACTORS["shape"].index(shape) + 1 for shape in target.shapes]
                # As RefCOCO writes what names one object, and gRefCOCO what names several or none.
                is_one = target.kind == "one"
                ann_id, category = (ann_ids[0], shapes[0]) if is_one else (ann_ids or [-1], shapes)
                ref = {"ref_id": len(refs) + 1, "ann_id": ann_id, "image_id": image_id, "file_name": name}
                ref |= {"category_id": category, "split": split, "sent_ids": ids, "sentences": said}
                refs.append(ref if is_one else {**ref, "no_target": not ann_ids})
    categories = [{"id": i, "name": shape, "supercategory": "shape"} for i, shape in enumerate(FACTORS["shape"], 1)]
    info = {"description": "RefShapes, a synthetic data set"}
    instances = {"images": images, "annotations": annotations, "categories": categories, "info": info}
    (directory / "instances.json").write_text(_json(instances))
    (directory / "refs(refshapes).p").write_bytes(_pickle(refs))


def _records(split: str, settings: RefShapesSettings, workers: int) -> Iterator[dict]:
    """Yields scenes until they have exactly the required number of expressions; the last may lose some."""
    wanted = _shares(settings.expressions if split == "train" else settings.expressions // 10, settings.generalised)
    taken = dict.fromkeys(wanted, 0)
    # In chunks, because drawing a scene takes less time than sending it between processes.
    chunks = ((split, range(start, start + _SCENES_AT_ONCE), settings) for start in count(0, _SCENES_AT_ONCE))
    drawn = map_in_order(_chunk, chunks, workers)
    bar = tqdm(total=sum(wanted.values()), desc=f"RefShapes {split}", unit=" expressions", disable=None)
    with closing(drawn), bar as progress:
        for record in chain.from_iterable(drawn):
            kept = []
            for target in record["refs"]:
                # The others keep pace with "one", which comes first, so that all parts of a split have the same shares.
                allowed = (
                    -(-wanted[target.kind] * taken["one"] // wanted["one"]) if target.kind != "one" else wanted["one"]
                )
                expressions = target.expressions[: allowed - taken[target.kind]]
                taken[target.kind] += len(expressions)
                progress.update(len(expressions))
                if expressions:
                    kept.append(target._replace(expressions=expressions))
            if kept:
                yield {**record, "refs": kept}
            if taken == wanted:
                return


def _shares(expressions: int, generalised: bool) -> dict[str, int]:
    """Returns the numbers of expressions that name one object, several and none; only the first if not generalised."""
    if not generalised:
        return {"one": expressions}
    several, none = (round(expressions * SHARES[kind] / sum(SHARES.values())) for kind in ("several", "none"))
    return {"one": expressions - several - none, "several": several, "none": none}


def _chunk(job: tuple[str, range, RefShapesSettings]) -> list[dict]:
    split, numbers, settings = job
    return [draw_record(split, number, settings.seed, settings.generalised) for number in numbers]


def draw_record(split: str, number: int, seed: int, generalised: bool = False) -> dict:
    """Returns a scene: picture, annotations, and refs, a list of `Target`."""
    dice = Dice(seed, _SPLITS.index(split), number)
    unseen_pairs = split == "testA"
    scene = make_scene(dice, OBJECTS[split], unseen_pairs)
    refs = []
    for index in dice.some(scene.referents(unseen_pairs), dice.between(2, 3)):
        expressions = make_expressions(scene.things, index, dice.between(2, 4), dice)
        if expressions:
            said = [(expression.family, expression.text) for expression in expressions]
            refs.append(Target("one", (index,), (scene.things[index].kind.shape,), said))
    if generalised:
        dice = Dice(seed, _SPLITS.index(split), number, 1)  # another stream, so that scenes and referents stay
        several: dict[tuple[int, ...], Target] = {}
        for named in make_several(scene, _MOST_SEVERAL, unseen_pairs, dice):
            target = several.setdefault(named.things, Target("several", named.things, named.shapes, []))
            target.expressions.append(("several", named.text))
        none = make_none(scene, _MOST_NONE, unseen_pairs, dice)
        refs += [*several.values(), *(Target("none", (), named.shapes, [("none", named.text)]) for named in none)]
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
