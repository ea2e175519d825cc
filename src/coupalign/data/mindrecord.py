"""Writes a split of a data set as MindRecord files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mindspore.mindrecord import FileWriter, MindRecordException

from coupalign.data.images import read_content
from coupalign.data.referents import EMPTY, Problem, Referent, target_kind
from coupalign.data.tokenizer import Tokenizer
from coupalign.errors import UserError
from coupalign.files import use_umask

if TYPE_CHECKING:
    from coupalign.data.convert import Pixels, Scene

IMAGES, OBJECTS, MASKS, EXPRESSIONS = "images", "objects", "masks", "expressions"
OBJECT_SIDE = 128  # height and width of an object's mask for set prediction
MOST_OBJECTS = 32  # of an image, the largest ones; the images of COCO have 7 on average
_IDS = ("image_id", "ref_id", "ann_id", "sent_id")
_SCHEMAS: dict[str, dict] = {
    IMAGES: {"image": {"type": "bytes"}},
    OBJECTS: {"objects": {"type": "bytes"}},  # of each image, in the same rows
    MASKS: {"mask": {"type": "bytes"}},
    EXPRESSIONS: {
        "image_row": {"type": "int64"},
        "mask_row": {"type": "int64"},
        "token_ids": {"type": "int32", "shape": [-1]},
        "token_mask": {"type": "int32", "shape": [-1]},
        "height": {"type": "int32"},
        "width": {"type": "int32"},
        **{name: {"type": "int64"} for name in _IDS},
        "expression": {"type": "string"},
        "family": {"type": "string"},
        "category": {"type": "string"},
        "baselines": {"type": "int64", "shape": [-1]},
    },
}
_SMALLEST_PAGE = 1 << 25  # MindRecord's default; a row must fit into a page
_FREQUENT = 20  # unknown words that are kept


def record_file(directory: Path, split: str, part: str) -> Path:
    """Returns the MindRecord file of a part, such as IMAGES; its index has the suffix `.db` in addition."""
    return directory / f"{split}.{part}.mindrecord"


def split_files(directory: Path, split: str) -> list[Path]:
    """Returns all files of a split."""
    records = [record_file(directory, split, part) for part in _SCHEMAS]
    return records + [record.with_name(f"{record.name}.db") for record in records]


def write_split(
    directory: Path,
    split: str,
    parts: Iterable[Iterable[tuple[Scene, Pixels]]],
    tokenizer: Tokenizer,
    description: str,
    largest_image: int = 0,
) -> tuple[dict[str, Any], list[Problem]]:
    """Writes four MindRecord files, whose rows are images, masks of all objects of an image, masks of referents, and
    expressions.

    A row of expressions refers to rows of the other files, so nothing is stored twice. The expressions of a referent
    are adjacent, and so are those of an image. A MindRecord file stores its own name: its directory may be renamed, the
    file may not.

    The size of the largest image, in bytes, sets the page size.

    Returns: The numbers of images, referents, expressions, truncated expressions and expressions with unknown words,
        with the most frequent unknown words, and of expressions that name several objects or none, where there are any;
        and what was left out.

    Raises: UserError if the files cannot be written.
    """
    counts = Counter(images=0, referents=0, expressions=0, truncated=0, unknown=0)
    unknown = Counter[str]()
    problems: list[Problem] = []
    pages = {IMAGES: max(_SMALLEST_PAGE, 1 << (largest_image + 1023).bit_length())}
    try:
        writers = {}
        for name, schema in _SCHEMAS.items():
            writers[name] = FileWriter(str(record_file(directory, split, name)), shard_num=1, overwrite=True)
            writers[name].add_schema(schema, description)
            writers[name].set_page_size(pages.get(name, _SMALLEST_PAGE))
        for part in parts:
            rows: dict[str, list] = {name: [] for name in _SCHEMAS}
            for scene, pixels in part:
                problems += pixels.problems
                image_row = counts["images"]
                for referent in scene.referents:
                    expressions = []
                    if referent.ref_id in pixels.masks:
                        expressions = list(_expressions(referent, scene, tokenizer, counts, unknown, problems))
                    if not expressions:
                        continue
                    if counts["images"] == image_row:  # an image is only written once an expression needs it
                        content = pixels.image or read_content(scene.image.path, f"image {scene.image.path}")
                        rows[IMAGES].append({"image": content})
                        rows[OBJECTS].append({"objects": pixels.objects})
                        counts["images"] += 1
                    baselines = np.array(pixels.baselines[referent.ref_id], np.int64)
                    shared = {"image_row": image_row, "mask_row": counts["referents"], "baselines": baselines}
                    rows[MASKS].append({"mask": pixels.masks[referent.ref_id]})
                    rows[EXPRESSIONS] += [{**row, **shared} for row in expressions]
                    counts.update(referents=1, expressions=len(expressions))
                    if (kind := target_kind(referent)) != "one":
                        counts[kind] += len(expressions)
            for name, writer in writers.items():
                if rows[name]:
                    writer.write_raw_data(rows[name])
        for writer in writers.values():
            writer.commit()
        for path in split_files(directory, split):
            use_umask(path)
    except (MindRecordException, RuntimeError) as error:
        raise UserError(
            f"{directory} cannot be written ({str(error).splitlines()[0]}): free some space or choose another --output"
        ) from error
    return {**counts, "unknown_words": dict(unknown.most_common(_FREQUENT))}, problems


def _expressions(
    referent: Referent, scene: Scene, tokenizer: Tokenizer, counts: Counter, unknown: Counter, problems: list[Problem]
) -> Iterator[dict]:
    for sentence in referent.sentences:
        try:
            token_ids, token_mask = tokenizer.encode(sentence.text)
        except UserError as error:
            name = f"sentence {sentence.sent_id} of referent {referent.ref_id}"
            problems.append(Problem(EMPTY, name, f"{name}: {error}", 0, 1))
            continue
        report = tokenizer.report(sentence.text)
        counts.update(truncated=report.last is not None, unknown=bool(report.unknown))
        unknown.update(report.unknown)
        yield {
            "token_ids": token_ids,
            "token_mask": token_mask,
            "height": scene.image.height,
            "width": scene.image.width,
            "image_id": referent.image_id,
            "ref_id": referent.ref_id,
            "ann_id": referent.ann_ids[0] if referent.ann_ids else -1,
            "sent_id": sentence.sent_id,
            "expression": sentence.text,
            "family": sentence.family,
            "category": referent.category,
        }
