"""What every data set is read into, whatever its files look like."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coupalign.data.masks import annotation_mask
from coupalign.errors import UserError

# Of expressions without a word, which are left out without ado: the published data sets have some.
EMPTY = "empty expression"


@dataclass(frozen=True, slots=True)
class Sentence:
    """One expression; `family` is "" where the data set has none."""

    sent_id: int
    text: str
    family: str


@dataclass(frozen=True, slots=True)
class Referent:
    """An object that expressions refer to."""

    ref_id: int
    ann_id: int
    image_id: int
    category: str
    split: str
    sentences: tuple[Sentence, ...]


@dataclass(frozen=True, slots=True)
class Image:
    """An image on disk, with the size that the annotations were made for.

    Attributes:
        as_stored: whether they were made for the pixels as stored, whatever EXIF says about them, as COCO's were.
    """

    path: Path
    height: int
    width: int
    as_stored: bool = True


@dataclass(frozen=True)
class Problem:
    """Something of a data set that cannot be used.

    Attributes:
        kind: "image", "mask", "referent", "expression" or EMPTY.
        name: what it is called: an image's path, "referent 17", "line 12".
        message: one line, as a UserError's: what is wrong, where, and the mend.
        referents: how many referents are lost by it.
        expressions: how many expressions are lost by it.
    """

    kind: str
    name: str
    message: str
    referents: int
    expressions: int


class Problems:
    """Collects problems in `found`, or raises the first one.

    Args:
        skip: go on, without what cannot be used.
    """

    def __init__(self, skip: bool):
        self.found: list[Problem] = []
        self._skip = skip

    def add(self, problem: Problem) -> None:
        """Raises UserError with the problem's message unless problems are skipped."""
        if not self._skip:
            raise UserError(problem.message)
        self.found.append(problem)


@dataclass(frozen=True)
class ReferDataset:
    """A data set, checked: every referent has an annotation, an image that is there, and an expression.

    Attributes:
        files: the annotation files that were read.
        referents: in the order of the files.
        images: by image_id, those of the referents.
        annotations: by ann_id, of those images: id or name, image_id, category_id, segmentation.
        annotations_of: ann_ids by image_id.
        problems: what was left out; expressions without a word always are.
    """

    files: tuple[Path, ...]
    referents: tuple[Referent, ...]
    images: Mapping[int, Image]
    annotations: Mapping[int, Mapping[str, Any]]
    annotations_of: Mapping[int, list[int]]
    problems: tuple[Problem, ...]

    @property
    def splits(self) -> list[str]:
        """In the order of their first mention."""
        return list(dict.fromkeys(referent.split for referent in self.referents))

    def of_split(self, split: str) -> list[Referent]:
        """Referents of a split, in the order of the files."""
        return [referent for referent in self.referents if referent.split == split]

    def counts(self, split: str) -> dict[str, int]:
        """Numbers of images, referents and expressions of a split."""
        referents = self.of_split(split)
        return {
            "images": len({referent.image_id for referent in referents}),
            "referents": len(referents),
            "expressions": sum(len(referent.sentences) for referent in referents),
        }

    def mask(self, ann_id: int) -> np.ndarray:
        """The pixels of an annotation: (h, w) bool at its image's own size. Raises UserError."""
        annotation = self.annotations[ann_id]
        image = self.images[annotation["image_id"]]
        return annotation_mask(annotation, image.height, image.width)

    def mask_files(self) -> list[Path]:
        """Files that annotations name as their masks."""
        segmentations = (annotation.get("segmentation") for annotation in self.annotations.values())
        return [Path(each["png"]) for each in segmentations if isinstance(each, Mapping) and "png" in each]


def is_id(value: object) -> bool:
    """Whether it is a whole number that fits 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def is_size(value: object) -> bool:
    """Whether it can be the height or width of an image."""
    return is_id(value) and 0 < value < 2**31


def is_split(value: object) -> bool:
    """Whether it can name a split, and with it files."""
    return isinstance(value, str) and re.fullmatch(r"\w[\w-]{,40}", value, re.ASCII) is not None


def as_text(value: object) -> str:
    """Text without spaces around it, and with U+FFFD for what is no character; "" for what is no text."""
    text = value if isinstance(value, str) else ""
    return text.strip().encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def shown(value: object) -> str:
    """A value of unknown origin, for a message."""
    if isinstance(value, (int, float)) and not is_id(value):
        return type(value).__name__
    return repr(value[:60]) if isinstance(value, str) else str(value) if is_id(value) else type(value).__name__
