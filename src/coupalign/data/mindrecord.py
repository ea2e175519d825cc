"""Writes a split of a data set as MindRecord files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mindspore.mindrecord import FileWriter, MindRecordException

from coupalign.data.referents import EMPTY, Problem, Referent
from coupalign.data.tokenizer import Tokenizer
from coupalign.errors import UserError

if TYPE_CHECKING:
    from coupalign.data.convert import Pixels, Scene

IMAGES, MASKS, EXPRESSIONS = "images", "masks", "expressions"
_IDS = ("image_id", "ref_id", "ann_id", "sent_id")
_SCHEMAS: dict[str, dict] = {
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
# Rows are written together until they reach either number.
_ROWS_AT_ONCE = 256
_BYTES_AT_ONCE = 1 << 26
_SMALLEST_PAGE = 1 << 25  # MindRecord's default; a row must fit into a page
_FREQUENT = 20  # unknown words that are kept


@dataclass
class Written:
    """Contents of a split.

    Attributes:
        images, referents, expressions: Their numbers.
        truncated: Number of expressions longer than max_tokens.
        unknown: Number of expressions with words outside the vocabulary.
        unknown_words: The most frequent of these words, with their numbers.
        problems: What was left out.
    """

    images: int = 0
    referents: int = 0
    expressions: int = 0
    truncated: int = 0
    unknown: int = 0
    unknown_words: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def record_file(directory: Path, split: str, part: str) -> Path:
    """Returns the MindRecord file of one of IMAGES, MASKS, EXPRESSIONS; its index has the suffix `.db` in addition."""
    return directory / f"{split}.{part}.mindrecord"


def split_files(directory: Path, split: str) -> list[Path]:
    """Returns all files of a split."""
    records = [record_file(directory, split, part) for part in _SCHEMAS]
    return records + [record.with_name(f"{record.name}.db") for record in records]


def write_split(
    directory: Path,
    split: str,
    drawn: Iterable[tuple[Scene, Pixels]],
    tokenizer: Tokenizer,
    description: str,
    largest_image: int = 0,
) -> Written:
    """Writes three MindRecord files, whose rows are images, masks of referents, and expressions.

    A row of expressions refers to rows of the other two files, so nothing is stored twice. The expressions of a referent
    are adjacent, and so are those of an image. A MindRecord file stores its own name: its directory may be renamed, the
    file may not.

    Args:
        description: Stored in the files.
        largest_image: Size in bytes of the largest image; it sets the page size.

    Raises:
        UserError: The files cannot be written.
    """
    written, unknown = Written(), Counter[str]()
    page = _SMALLEST_PAGE
    while page < largest_image + 1024:
        page *= 2
    try:
        files = {
            part: _File(
                record_file(directory, split, part), schema, description, page if part == IMAGES else _SMALLEST_PAGE
            )
            for part, schema in _SCHEMAS.items()
        }
        for scene, pixels in drawn:
            written.problems += pixels.problems
            # An image is only written once an expression needs it.
            image_row = None
            for referent in scene.referents:
                if referent.ref_id not in pixels.masks:
                    continue
                rows = list(_expressions(referent, scene, tokenizer, written, unknown))
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
    written.unknown_words = dict(unknown.most_common(_FREQUENT))
    return written


class _File:
    """A MindRecord file that is written row by row."""

    def __init__(self, path: Path, schema: dict, description: str, page_size: int):
        self._path = path
        self._writer = FileWriter(str(path), shard_num=1, overwrite=True)
        self._writer.add_schema(schema, description)
        self._writer.set_page_size(page_size)
        self._rows: list[dict] = []
        self._count = self._bytes = 0

    def add(self, row: dict) -> int:
        """Adds a row and returns its number."""
        self._rows.append(row)
        self._count += 1
        self._bytes += sum(len(value) for value in row.values() if isinstance(value, bytes))
        if len(self._rows) == _ROWS_AT_ONCE or self._bytes > _BYTES_AT_ONCE:
            self._flush()
        return self._count - 1

    def close(self) -> int:
        """Completes the file and returns the number of rows."""
        self._flush()
        self._writer.commit()
        # MindRecord gives its files to their owner only; the umask decides instead.
        umask = os.umask(0)
        os.umask(umask)
        for path in (self._path, self._path.with_name(f"{self._path.name}.db")):
            path.chmod(0o666 & ~umask)
        return self._count

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_raw_data(self._rows)
            self._rows, self._bytes = [], 0


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"image {path} can no longer be read ({error.strerror}): put it back") from error


def _expressions(
    referent: Referent, scene: Scene, tokenizer: Tokenizer, written: Written, unknown: Counter
) -> Iterator[dict]:
    for sentence in referent.sentences:
        try:
            token_ids, token_mask = tokenizer.encode(sentence.text)
        except UserError as error:
            name = f"sentence {sentence.sent_id} of referent {referent.ref_id}"
            written.problems.append(Problem(EMPTY, name, f"{name}: {error}", 0, 1))
            continue
        report = tokenizer.report(sentence.text)
        written.truncated += report.last is not None
        written.unknown += bool(report.unknown)
        unknown.update(report.unknown)
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
