"""Data structures of a data set that has been read, whatever its files look like."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coupalign.data.masks import annotation_mask
from coupalign.errors import UserError

# Expressions without a word are always left out, because the published data sets have some.
EMPTY = "empty expression"


@dataclass(frozen=True, slots=True)
class Sentence:
    """One expression; `family` is "" where the data set has none."""

    sent_id: int
    text: str
    family: str


@dataclass(frozen=True, slots=True)
class Referent:
    """What expressions refer to: an object; or several, or none, as in generalised referring segmentation."""

    ref_id: int
    ann_ids: tuple[int, ...]  # the mask is their union; empty if nothing in the image is meant
    image_id: int
    category_ids: tuple[int | str, ...]  # of the annotations; if there are none, of what is asked for, if it is known
    category: str  # their names
    split: str
    sentences: tuple[Sentence, ...]


@dataclass(frozen=True, slots=True)
class Image:
    """An image on disk, with the size for which the annotations were made."""

    path: Path
    height: int
    width: int
    as_stored: bool = True  # they were made for the pixels as stored, ignoring the orientation, like COCO's


@dataclass(frozen=True)
class Problem:
    """A part of a data set that cannot be used."""

    kind: str  # "image", "mask", "referent", "expression" or EMPTY
    name: str  # an image's path, "referent 17", "line 12"
    message: str  # one line, as in a UserError
    referents: int  # lost with it
    expressions: int


class Problems:
    """Collects problems in `found`; unless `skip`, raises the first one that is not EMPTY."""

    def __init__(self, skip: bool):
        self.found: list[Problem] = []
        self._skip = skip

    def add(self, problem: Problem) -> None:
        """Raises: UserError with the problem's message."""
        if not self._skip and problem.kind != EMPTY:
            raise UserError(problem.message)
        self.found.append(problem)


@dataclass(frozen=True)
class ReferDataset:
    """A checked data set: every referent has an annotation, an existing image, and an expression."""

    files: tuple[Path, ...]  # of the annotations
    referents: tuple[Referent, ...]  # in the order of the files
    images: Mapping[int, Image]  # by image_id
    annotations: Mapping[int, Mapping[str, Any]]  # by ann_id: id or name, image_id, category_id, segmentation
    annotations_of: Mapping[int, list[int]]  # ann_ids by image_id
    problems: tuple[Problem, ...]  # what was left out

    @property
    def splits(self) -> list[str]:
        """Names of the splits, in the order of their first referents."""
        return list(dict.fromkeys(referent.split for referent in self.referents))

    def of_split(self, split: str) -> list[Referent]:
        """Returns the referents of a split, in the order of the files."""
        return [referent for referent in self.referents if referent.split == split]

    def counts(self, split: str) -> dict[str, int]:
        """Returns the numbers of images, referents, expressions and, where there are any, of `several` and `none`."""
        referents = self.of_split(split)
        expressions = Counter[str]()
        for referent in referents:
            expressions[target_kind(referent)] += len(referent.sentences)
        return {
            "images": len({referent.image_id for referent in referents}),
            "referents": len(referents),
            "expressions": expressions.total(),
            **{kind: number for kind, number in expressions.items() if kind != "one"},
        }

    def mask(self, ann_id: int) -> np.ndarray:
        """Draws an annotation: (h, w) bool at its image's own size. Raises: UserError."""
        annotation = self.annotations[ann_id]
        image = self.images[annotation["image_id"]]
        return annotation_mask(annotation, image.height, image.width)

    def mask_files(self) -> list[Path]:
        """Returns the mask files of the annotations."""
        segmentations = (annotation.get("segmentation") for annotation in self.annotations.values())
        return [Path(each["png"]) for each in segmentations if isinstance(each, Mapping) and "png" in each]


def target_kind(referent: Referent) -> str:
    """Whether expressions name "one" object, "several" or "none"."""
    return "none" if not referent.ann_ids else "one" if len(referent.ann_ids) == 1 else "several"


def is_id(value: object) -> bool:
    """Whether `value` is an integer of 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def is_size(value: object) -> bool:
    """Whether `value` can be the height or width of an image."""
    return isinstance(value, int) and is_id(value) and 0 < value < 2**31


def is_split(value: object) -> bool:
    """Whether `value` can name a split and its files."""
    return isinstance(value, str) and re.fullmatch(r"\w[\w-]{,40}", value, re.ASCII) is not None


def as_text(value: object) -> str:
    """Strips text and replaces invalid characters by U+FFFD; returns "" for other values."""
    text = value if isinstance(value, str) else ""
    return text.strip().encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def shown(value: object) -> str:
    """Shortens a value from a file for a message."""
    if isinstance(value, (int, float)) and not is_id(value):
        return type(value).__name__
    return repr(value[:60]) if isinstance(value, str) else str(value) if is_id(value) else type(value).__name__
