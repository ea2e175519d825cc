"""Data sets of one's own: a JSON Lines file of expressions, beside images and masks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from coupalign.data.images import image_size
from coupalign.data.masks import packed
from coupalign.data.referents import (
    EMPTY,
    Image,
    Problem,
    Problems,
    ReferDataset,
    Referent,
    Sentence,
    as_text,
    is_id,
    is_split,
    shown,
)
from coupalign.errors import UserError


@dataclass(frozen=True, slots=True)
class _Line:
    """A line that is right by itself; `mask` is a digest."""

    number: int
    image: str
    mask: bytes
    text: str
    split: str
    category: str
    family: str
    ids: tuple[int | None, ...]


# What lines that share an id must have in common; and an id that is not given is the number of the first such line.
_MEANING: dict[str, Callable[[_Line], Hashable]] = {
    "image_id": lambda line: line.image,
    "ann_id": lambda line: (line.image, line.mask),
    "ref_id": lambda line: (line.image, line.mask, line.split, line.category),
    "sent_id": lambda line: line.number,
}
_TEXTS = ("image", "expression", "split", "category", "family")


def read_json_lines(file: Path, images: Path, skip: bool = False) -> ReferDataset:
    """Reads and checks a data set; of images only the headers, of masks in files that they are there.

    A line is an object: image (path, relative to `images`), expression, mask ({"png": path relative to the file},
    {"size": [h, w], "counts": run lengths} or a list of polygons), and where wanted split (train), category, family, and
    the numbers image_id, ann_id, ref_id and sent_id, each on all lines or on none. Masks are drawn on the image as people
    see it, upright. Lines with the same image, mask, split and category are expressions of one referent.

    Args:
        skip: leave out lines and images that cannot be used, rather than raise what is wrong with the first.

    Raises: UserError that names file and line.
    """
    problems, lines, masks = Problems(skip), [], {}
    for line, mask in _lines(file, problems):
        lines.append(line)
        masks.setdefault((line.image, line.mask), mask)
    lines, ids = _with_ids(lines, file, problems)
    found: dict[str, Image] = {}
    for name, concerned in _grouped(lines, lambda line: line.image).items():
        try:
            found[name] = Image(images / name, *image_size(images / name), as_stored=False)
        except UserError as error:
            problems.add(_problem("image", str(images / name), str(error), concerned, ids))
    lines = [line for line in lines if line.image in found]
    for key, concerned in _grouped(lines, lambda line: (line.image, line.mask)).items():
        path = masks[key].get("png") if isinstance(masks[key], dict) else None
        if path is not None and not os.path.isfile(path):
            message = f"{file}: line {concerned[0].number}: the mask {path} is missing: check its path"
            problems.add(_problem("mask", path, message, concerned, ids))
            del masks[key]
    referents = _grouped([line for line in lines if (line.image, line.mask) in masks], lambda line: ids[line.number][2])
    if not referents:
        why = f"; the first one's trouble: {problems.found[0].message}" if problems.found else ""
        raise UserError(
            f"{file} has no line that can be used{why}: give it lines such as "
            '{"image": "a.jpg", "expression": "the left cup", "mask": {"png": "a.png"}}'
        )
    used: dict[int, Image] = {}
    annotations: dict[int, dict[str, Any]] = {}
    annotations_of: dict[int, list[int]] = {}
    made = []
    for ref_id, said in referents.items():
        first = said[0]
        image_id, ann_id = ids[first.number][:2]
        used[image_id] = found[first.image]
        if ann_id not in annotations:
            annotations_of.setdefault(image_id, []).append(ann_id)
            annotations[ann_id] = {
                "id": ann_id,
                "name": f"{file}: line {first.number}",
                "image_id": image_id,
                "category_id": first.category,
                "segmentation": masks[first.image, first.mask],
            }
        made.append(
            Referent(
                ref_id,
                ann_id,
                image_id,
                first.category,
                first.split,
                tuple(Sentence(ids[line.number][3], line.text, line.family) for line in said),
            )
        )
    return ReferDataset((file,), tuple(made), used, annotations, annotations_of, tuple(problems.found))


def _lines(file: Path, problems: Problems) -> Iterator[tuple[_Line, Any]]:
    """Lines that are right by themselves, with their masks' segmentations."""
    try:
        with open(file, "rb") as stream:
            for number, content in enumerate(stream, 1):
                content = content.removeprefix(b"\xef\xbb\xbf") if number == 1 else content
                if not content.strip():
                    continue
                where = f"{file}: line {number}"
                try:
                    line, mask = _parse(content, number, file.parent)
                except UserError as error:
                    problems.add(Problem("expression", f"line {number}", f"{where} {error}", 0, 1))
                    continue
                if line.text:
                    yield line, mask
                else:
                    problems.found.append(Problem(EMPTY, f"line {number}", f"{where} has no word", 0, 1))
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): name a JSON Lines file") from error


def _parse(content: bytes, number: int, directory: Path) -> tuple[_Line, Any]:
    try:
        entry = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"is no JSON ({error}): write one object a line") from error
    if not isinstance(entry, dict):
        raise UserError(f"is a {type(entry).__name__}: write one object a line")
    for key in entry:
        if key not in (*_TEXTS, *_MEANING, "mask"):
            raise UserError(
                f"has {shown(key)}, which means nothing here: the keys are {', '.join(_TEXTS)}, mask, "
                f"{', '.join(_MEANING)}"
            )
    for key in ("image", "expression", "mask"):
        if key not in entry:
            raise UserError(f"has no {key}: it needs image, expression and mask")
    for key in _TEXTS:
        if not isinstance(entry.get(key, ""), str):
            raise UserError(f"has {shown(entry[key])} for its {key}: make it text")
    for key in _MEANING:
        if key in entry and not is_id(entry[key]):
            raise UserError(f"has {shown(entry[key])} for its {key}: make it a whole number")
    split = entry.get("split", "train")
    if not is_split(split):
        raise UserError(f"has {shown(split)} for its split: use letters, digits, _ and -")
    mask = entry["mask"]
    if isinstance(mask, dict) and isinstance(mask.get("png"), str):
        mask = {"png": str(directory / mask["png"])}
    elif not (isinstance(mask, dict) and {"size", "counts"} <= set(mask)) and not (isinstance(mask, list) and mask):
        raise UserError(
            'has a mask that is none: make it {"png": "a.png"}, {"size": [h, w], "counts": …} or [[x1, y1, x2, y2, …], …]'
        )
    line = _Line(
        number,
        entry["image"],
        sha256(json.dumps(mask, sort_keys=True).encode()).digest(),
        as_text(entry["expression"]),
        split,
        as_text(entry.get("category")),
        as_text(entry.get("family")),
        tuple(entry.get(key) for key in _MEANING),
    )
    return line, packed(mask)


def _with_ids(lines: list[_Line], file: Path, problems: Problems) -> tuple[list[_Line], dict[int, tuple[int, ...]]]:
    """Lines whose ids mean one thing, and by line number the ids in the order of `_MEANING`."""
    first: list[dict] = [{} for _ in _MEANING]
    for place, key in enumerate(_MEANING):
        without = [line.number for line in lines if line.ids[place] is None]
        if 0 < len(without) < len(lines):
            raise UserError(f"{file}: line {without[0]} has no {key}, others have: give it on every line or on none")
    kept, ids = [], {}
    for line in lines:
        own = []
        for given, meaning, known, key in zip(line.ids, _MEANING.values(), first, _MEANING, strict=True):
            if given is None:
                own.append(known.setdefault(meaning(line), line.number))
                continue
            other = known.setdefault(given, line)
            if meaning(other) != meaning(line):
                problems.add(
                    Problem(
                        "expression",
                        f"line {line.number}",
                        f"{file}: line {line.number} has the {key} "
                        f"{given} of line {other.number}, which is about something else: give each its own",
                        0,
                        1,
                    )
                )
                break
            own.append(given)
        else:
            kept.append(line)
            ids[line.number] = tuple(own)
    return kept, ids


def _grouped(lines: list[_Line], key: Callable[[_Line], Hashable]) -> dict[Any, list[_Line]]:
    """Lines by what they have in common, in the order of first mention."""
    groups: dict[Any, list[_Line]] = {}
    for line in lines:
        groups.setdefault(key(line), []).append(line)
    return groups


def _problem(kind: str, name: str, message: str, lost: list[_Line], ids: dict[int, tuple[int, ...]]) -> Problem:
    return Problem(kind, name, message, len({ids[line.number][2] for line in lost}), len(lost))
