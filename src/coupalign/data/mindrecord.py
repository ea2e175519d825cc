"""A split of a data set as MindRecord files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mindspore.mindrecord import FileWriter, MindRecordException

from coupalign.data.convert import Pixels, Scene
from coupalign.data.referents import EMPTY, Problem, Referent
from coupalign.data.tokenizer import Tokenizer
from coupalign.errors import UserError

IMAGES, MASKS, EXPRESSIONS = "images", "masks", "expressions"
_IDS = ("image_id", "ref_id", "ann_id", "sent_id")
_SCHEMAS = {
    IMAGES: {"image": {"type": "bytes"}},
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
_ROWS_AT_ONCE = 256


@dataclass
class Written:
    """What a split holds.

    Attributes:
        images, referents, expressions: their numbers.
        problems: what was left out of it.
    """

    images: int = 0
    referents: int = 0
    expressions: int = 0
    problems: list[Problem] = field(default_factory=list)


def record_file(directory: Path, split: str, part: str) -> Path:
    """The MindRecord file of one of IMAGES, MASKS, EXPRESSIONS; its index has `.db` behind the name."""
    return directory / f"{split}.{part}.mindrecord"


def split_files(directory: Path, split: str) -> list[Path]:
    """All files of a split."""
    records = [record_file(directory, split, part) for part in _SCHEMAS]
    return records + [record.with_name(f"{record.name}.db") for record in records]


def write_split(
    directory: Path, split: str, drawn: Iterable[tuple[Scene, Pixels]], tokenizer: Tokenizer, description: str
) -> Written:
    """Writes three MindRecord files: an image a row, a referent's mask a row, an expression a row.

    A row of expressions names its rows in the other two, so that nothing is stored twice. Expressions of one referent
    follow each other, as do those of one image. A MindRecord knows its own name: its directory may be renamed, the
    file may not.

    Args:
        description: kept in the files.

    Raises: UserError where they cannot be written.
    """
    written = Written()
    try:
        files = {
            part: _File(record_file(directory, split, part), schema, description) for part, schema in _SCHEMAS.items()
        }
        for scene, pixels in drawn:
            written.problems += pixels.problems
            # Nothing is written of an image before there is an expression that needs it.
            image_row = None
            for referent in scene.referents:
                if referent.ref_id not in pixels.masks:
                    continue
                rows = list(_expressions(referent, scene, tokenizer, written.problems))
                if not rows:
                    continue
                if image_row is None:
                    image_row = files[IMAGES].add({"image": pixels.image or _content(scene.image.path)})
                mask_row = files[MASKS].add({"mask": pixels.masks[referent.ref_id]})
                baselines = np.array(pixels.baselines[referent.ref_id], np.int64)
                for row in rows:
                    files[EXPRESSIONS].add(
                        {**row, "image_row": image_row, "mask_row": mask_row, "baselines": baselines}
                    )
        written.images, written.referents, written.expressions = (files[part].close() for part in _SCHEMAS)
    except (MindRecordException, RuntimeError) as error:
        raise UserError(
            f"{directory} cannot be written ({str(error).splitlines()[0]}): free some space or choose another --output"
        ) from error
    return written


class _File:
    """A MindRecord file that rows are added to."""

    def __init__(self, path: Path, schema: dict, description: str):
        self._path = path
        self._writer = FileWriter(str(path), shard_num=1, overwrite=True)
        self._writer.add_schema(schema, description)
        self._rows: list[dict] = []
        self._count = 0

    def add(self, row: dict) -> int:
        """The number of the row."""
        self._rows.append(row)
        self._count += 1
        if len(self._rows) == _ROWS_AT_ONCE:
            self._flush()
        return self._count - 1

    def close(self) -> int:
        """The number of rows."""
        self._flush()
        self._writer.commit()
        # MindRecord's own files are for their owner only; a data set is for all who may read beside it.
        hidden = os.umask(0)
        os.umask(hidden)
        for path in (self._path, self._path.with_name(f"{self._path.name}.db")):
            path.chmod(0o666 & ~hidden)
        return self._count

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_raw_data(self._rows)
            self._rows = []


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"image {path} was there, and cannot be read any more ({error.strerror}): put it back"
        ) from error


def _expressions(referent: Referent, scene: Scene, tokenizer: Tokenizer, problems: list[Problem]) -> Iterable[dict]:
    for sentence in referent.sentences:
        try:
            token_ids, token_mask = tokenizer.encode(sentence.text)
        except UserError as error:
            name = f"sentence {sentence.sent_id} of referent {referent.ref_id}"
            problems.append(Problem(EMPTY, name, f"{name}: {error}", 0, 1))
            continue
        yield {
            "token_ids": token_ids,
            "token_mask": token_mask,
            "height": scene.image.height,
            "width": scene.image.width,
            "image_id": referent.image_id,
            "ref_id": referent.ref_id,
            "ann_id": referent.ann_id,
            "sent_id": sentence.sent_id,
            "expression": sentence.text,
            "family": sentence.family,
            "category": referent.category,
        }
