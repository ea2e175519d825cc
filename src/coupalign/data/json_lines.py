"""Custom data sets: a file of JSON Lines with expressions, images and masks."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain, count
from pathlib import Path
from typing import Any

from coupalign.data.images import image_size
from coupalign.data.masks import FORMS, packed
from coupalign.data.referents import (
    EMPTY,
    Image,
    Problem,
    Problems,
    ReferDataset,
    Referent,
    Sentence,
    as_text,
    is_split,
    shown,
)
from coupalign.data.tokenizer import has_word
from coupalign.errors import UserError


@dataclass(frozen=True, slots=True)
class _Line:
    """A line that is valid by itself; `image` is a normalised path, `masks` are digests."""

    number: int
    image: str
    masks: tuple[bytes, ...]
    text: str
    split: str
    category: str
    family: str

    @property
    def referent(self) -> Hashable:
        # Expressions that name nothing have nothing in common.
        return self.image, self.masks or self.number, self.split, self.category


_TEXTS = ("image", "expression", "split", "category", "family")
_FIELDS = ("image", "expression", "mask", "split", "category", "family")


def read_json_lines(file: Path, images: Path, skip: bool = False) -> ReferDataset:
    """Reads and checks a data set. Of images only the headers are read; mask files are only looked for.

    A line is an object with image (path relative to `images`), expression, mask ({"png": path relative to the file},
    {"size": [h, w], "counts": run lengths} or a list of polygons; or a list of these, of which the union counts, and
    which is empty if nothing is meant) and, optionally, split (default train), category and family. Masks are drawn on
    the upright image. Lines with the same image, masks, split and category are expressions of one referent. The id of
    an image, annotation, referent or sentence is the number of the first line that has it; annotations of the second
    and further masks of a line are numbered after the last line.

    Args:
        skip: Leave out lines and images that cannot be used, instead of raising the first problem.

    Raises:
        UserError: Something cannot be used; the message names file and line.
    """
    problems = Problems(skip)
    masks: dict[tuple[str, bytes], Any] = {}
    by_image: dict[str, list[_Line]] = {}
    for line, segmentations in _lines(file, images, problems):
        for digest, segmentation in zip(line.masks, segmentations, strict=True):
            masks.setdefault((line.image, digest), segmentation)
        by_image.setdefault(line.image, []).append(line)
    lost: set[object] = set()  # images and (image, mask) pairs
    found: dict[str, Image] = {}
    for name, concerned in by_image.items():
        try:
            found[name] = Image(Path(name), *image_size(name), as_stored=False)
        except UserError as error:
            problems.add(_problem("image", name, str(error), concerned))
            lost.add(name)
    for key, mask in masks.items():
        if isinstance(mask, dict) and "png" in mask and key[0] not in lost and not os.path.isfile(mask["png"]):
            concerned = [line for line in by_image[key[0]] if key[1] in line.masks]
            message = f"{file}: line {concerned[0].number}: the mask {mask['png']} is missing: check its path"
            problems.add(_problem("mask", mask["png"], message, concerned))
            lost.add(key)
    lines = sorted(chain.from_iterable(by_image.values()), key=lambda line: line.number)
    used: dict[str, int] = {}
    ann_ids: dict[tuple[str, bytes], int] = {}
    annotations: dict[int, dict[str, Any]] = {}
    annotations_of: dict[int, list[int]] = {}
    said: dict[Hashable, list[_Line]] = {}
    further = count(max((line.number for line in lines), default=0) + 1)
    for line in lines:
        keys = [(line.image, digest) for digest in line.masks]
        if line.image in lost or lost.intersection(keys):
            continue
        image_id = used.setdefault(line.image, line.number)
        annotations_of.setdefault(image_id, [])
        for place, key in enumerate(keys):
            if key not in ann_ids:
                ann_id = ann_ids[key] = next(further) if place else line.number
                annotations_of[image_id].append(ann_id)
                about = {"id": ann_id, "name": f"{file}: line {line.number}", "image_id": image_id}
                annotations[ann_id] = {**about, "category_id": line.category, "segmentation": masks[key]}
        said.setdefault(line.referent, []).append(line)
    if not said:
        why = f"; the first problem: {problems.found[0].message}" if problems.found else ""
        raise UserError(
            f"{file} has no usable line{why}: write lines such as "
            '{"image": "a.jpg", "expression": "the left cup", "mask": {"png": "a.png"}}'
        )
    referents = tuple(
        Referent(
            first.number,
            tuple(ann_ids[first.image, digest] for digest in first.masks),
            used[first.image],
            (first.category,),
            first.category,
            first.split,
            tuple(Sentence(line.number, line.text, line.family) for line in (first, *others)),
        )
        for first, *others in said.values()
    )
    pictures = {image_id: found[name] for name, image_id in used.items()}
    return ReferDataset((file,), referents, pictures, annotations, annotations_of, tuple(problems.found))


def _lines(file: Path, images: Path, problems: Problems) -> Iterator[tuple[_Line, list[Any]]]:
    """Yields the lines that are valid by themselves, with the segmentations of their masks."""
    for number, content in enumerate(_content(file), 1):
        if not content.strip():
            continue
        where = f"{file}: line {number}"
        try:
            line, segmentations = _parse(content, number, file.parent, images)
        except UserError as error:
            problems.add(Problem("expression", f"line {number}", f"{where} {error}", 0, 1))
            continue
        if has_word(line.text):
            yield line, segmentations
        else:
            problems.add(Problem(EMPTY, f"line {number}", f"{where} has an expression without a word", 0, 1))


def _content(file: Path) -> Iterator[bytes]:
    try:
        with open(file, "rb") as stream:
            stream.seek(3 if stream.read(3) == codecs.BOM_UTF8 else 0)
            yield from stream
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): give a file of JSON Lines") from error


def _parse(content: bytes, number: int, directory: Path, images: Path) -> tuple[_Line, list[Any]]:
    try:
        entry = json.loads(content)
    except UnicodeDecodeError as error:
        raise UserError("is not in UTF-8: save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"is not JSON ({error}): write one JSON object per line") from error
    if not isinstance(entry, dict):
        raise UserError(f"is a {type(entry).__name__}: write one JSON object per line, as JSON Lines")
    for key in entry:
        if key not in _FIELDS:
            raise UserError(f"has an unknown field {shown(key)}: allowed fields are {', '.join(_FIELDS)}")
    for key in _FIELDS[:3]:
        if key not in entry:
            raise UserError(f"has no {key}: image, expression and mask are required")
    for key in _TEXTS:
        if not isinstance(entry.get(key, ""), str):
            raise UserError(f"has the {key} {shown(entry[key])}: write text")
    split = entry.get("split", "train")
    if not is_split(split):
        raise UserError(f"has the split {shown(split)}: use letters, digits, _ and -")
    listed = entry["mask"] if _are_masks(entry["mask"]) else [entry["mask"]]
    masks = {}  # by digest: a mask that is listed twice is one
    for mask in (_mask(each, directory) for each in listed):
        masks[sha256(json.dumps(mask, sort_keys=True).encode()).digest()] = mask
    line = _Line(
        number,
        os.path.normpath(images / entry["image"]),
        tuple(masks),
        as_text(entry["expression"]),
        split,
        as_text(entry.get("category")),
        as_text(entry.get("family")),
    )
    return line, [packed(mask) for mask in masks.values()]


def _are_masks(mask: Any) -> bool:
    """Whether a field `mask` is a list of masks: empty, or with one that is not a polygon, a list of numbers."""
    return isinstance(mask, list) and not (
        mask and all(isinstance(each, list) and not any(isinstance(part, list) for part in each) for each in mask)
    )


def _mask(mask: Any, directory: Path) -> Any:
    if isinstance(mask, dict) and isinstance(mask.get("png"), str):
        return {"png": os.path.normpath(directory / mask["png"])}
    if not (isinstance(mask, dict) and {"size", "counts"} <= set(mask)) and not (isinstance(mask, list) and mask):
        raise UserError(f"has an invalid mask: give {FORMS}, a list of these, or [] if nothing in the image is meant")
    return mask


def _problem(kind: str, name: str, message: str, lost: list[_Line]) -> Problem:
    return Problem(kind, name, message, len({line.referent for line in lost}), len(lost))
