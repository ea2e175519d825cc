"""Custom data sets: a file of JSON Lines with expressions, images and masks."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from hashlib import sha256
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
    is_id,
    is_split,
    shown,
)
from coupalign.data.tokenizer import has_word
from coupalign.errors import UserError


@dataclass(frozen=True, slots=True)
class _Line:
    """A line that is valid by itself; `image` is a normalised path, `mask` a digest."""

    number: int
    image: str
    mask: bytes
    text: str
    split: str
    category: str
    family: str
    ids: tuple[int | None, ...]


# What lines with the same id must have in common. A missing id becomes the number of the first line in its group.
_MEANING: dict[str, Callable[[_Line], Hashable]] = {
    "image_id": lambda line: line.image,
    "ann_id": lambda line: (line.image, line.mask),
    "ref_id": lambda line: (line.image, line.mask, line.split, line.category),
    "sent_id": lambda line: line.number,
}
_TEXTS = ("image", "expression", "split", "category", "family")
_FIELDS = ("image", "expression", "mask", "split", "category", "family", *_MEANING)


def read_json_lines(file: Path, images: Path, skip: bool = False) -> ReferDataset:
    """Reads and checks a data set. Of images only the headers are read; mask files are only looked for.

    A line is an object with image (path relative to `images`), expression, mask ({"png": path relative to the file},
    {"size": [h, w], "counts": run lengths} or a list of polygons) and, optionally, split (default train), category, family
    and the numbers image_id, ann_id, ref_id and sent_id, each on all lines or on none. Masks are drawn on the upright
    image. Lines with the same image, mask, split and category are expressions of one referent. The file is in UTF-8, or in
    UTF-16 with a byte order mark.

    Args:
        skip: Leave out lines and images that cannot be used, instead of raising the first problem.

    Raises:
        UserError: Something cannot be used; the message names file and line.
    """
    problems, lines = Problems(skip), []
    masks: dict[Any, Any] = {}
    for line, mask in _lines(file, images, problems):
        lines.append(line)
        masks.setdefault((line.image, line.mask), mask)
    lines, ids = _with_ids(lines, file, problems)
    found: dict[str, Image] = {}
    for name, concerned in _grouped(lines, lambda line: line.image).items():
        try:
            found[name] = Image(Path(name), *image_size(name), as_stored=False)
        except UserError as error:
            problems.add(_problem("image", name, str(error), concerned, ids))
    lines = [line for line in lines if line.image in found]
    for key, concerned in _grouped(lines, lambda line: (line.image, line.mask)).items():
        path = masks[key].get("png") if isinstance(masks[key], dict) else None
        if path is not None and not os.path.isfile(path):
            message = f"{file}: line {concerned[0].number}: the mask {path} is missing: check its path"
            problems.add(_problem("mask", path, message, concerned, ids))
            del masks[key]
    referents = _grouped([line for line in lines if (line.image, line.mask) in masks], lambda line: ids[line.number][2])
    if not referents:
        why = f"; the first problem: {problems.found[0].message}" if problems.found else ""
        raise UserError(
            f"{file} has no usable line{why}: write lines such as "
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
        sentences = tuple(Sentence(ids[line.number][3], line.text, line.family) for line in said)
        made.append(Referent(ref_id, ann_id, image_id, first.category, first.split, sentences))
    return ReferDataset((file,), tuple(made), used, annotations, annotations_of, tuple(problems.found))


def _lines(file: Path, images: Path, problems: Problems) -> Iterator[tuple[_Line, Any]]:
    """Yields the lines that are valid by themselves, with the segmentations of their masks."""
    for number, content in enumerate(_content(file), 1):
        if not content.strip():
            continue
        where = f"{file}: line {number}"
        try:
            line, mask = _parse(content, number, file.parent, images)
        except UserError as error:
            problems.add(Problem("expression", f"line {number}", f"{where} {error}", 0, 1))
            continue
        if has_word(line.text):
            yield line, mask
        else:
            problems.add(Problem(EMPTY, f"line {number}", f"{where} has an expression without a word", 0, 1))


def _content(file: Path) -> Iterator[bytes]:
    """Yields the lines of a file in UTF-8."""
    try:
        with open(file, "rb") as stream:
            start = stream.read(3)
            if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):  # as PowerShell writes
                yield from (start + stream.read()).decode("utf-16").encode("utf-8", "replace").split(b"\n")
            else:
                stream.seek(3 if start == codecs.BOM_UTF8 else 0)
                yield from stream
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): give a file of JSON Lines") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not valid UTF-16: save it as UTF-8") from error


def _parse(content: bytes, number: int, directory: Path, images: Path) -> tuple[_Line, Any]:
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
    for key in _MEANING:
        if key in entry and not is_id(entry[key]):
            raise UserError(f"has the {key} {shown(entry[key])}: write a whole number")
    split = entry.get("split", "train")
    if not is_split(split):
        raise UserError(f"has the split {shown(split)}: use letters, digits, _ and -")
    mask = entry["mask"]
    if isinstance(mask, dict) and isinstance(mask.get("png"), str):
        mask = {"png": os.path.normpath(directory / mask["png"])}
    elif not (isinstance(mask, dict) and {"size", "counts"} <= set(mask)) and not (isinstance(mask, list) and mask):
        raise UserError(f"has an invalid mask: give {FORMS}")
    line = _Line(
        number,
        os.path.normpath(images / entry["image"]),
        sha256(json.dumps(mask, sort_keys=True).encode()).digest(),
        as_text(entry["expression"]),
        split,
        as_text(entry.get("category")),
        as_text(entry.get("family")),
        tuple(entry.get(key) for key in _MEANING),
    )
    return line, packed(mask)


def _with_ids(lines: list[_Line], file: Path, problems: Problems) -> tuple[list[_Line], dict[int, tuple[int, ...]]]:
    """Returns the lines whose ids are consistent, and by line number their ids in the order of `_MEANING`."""
    first: list[dict] = [{} for _ in _MEANING]
    for place, key in enumerate(_MEANING):
        without = [line.number for line in lines if line.ids[place] is None]
        if 0 < len(without) < len(lines):
            raise UserError(f"{file}: line {without[0]} has no {key}, but others have: give it on all lines or on none")
    kept, ids = [], {}
    for line in lines:
        own = []
        for given, meaning, known, key in zip(line.ids, _MEANING.values(), first, _MEANING, strict=True):
            if given is None:
                own.append(known.setdefault(meaning(line), line.number))
                continue
            other = known.setdefault(given, line)
            if meaning(other) != meaning(line):
                message = (
                    f"{file}: line {line.number} has the {key} {given} of line {other.number}, which has another image, "
                    "mask, split or category: use different ids"
                )
                problems.add(Problem("expression", f"line {line.number}", message, 0, 1))
                break
            own.append(given)
        else:
            kept.append(line)
            ids[line.number] = tuple(own)
    return kept, ids


def _grouped(lines: list[_Line], key: Callable[[_Line], Hashable]) -> dict[Any, list[_Line]]:
    """Groups lines by a key, in the order of their first lines."""
    groups: dict[Any, list[_Line]] = {}
    for line in lines:
        groups.setdefault(key(line), []).append(line)
    return groups


def _problem(kind: str, name: str, message: str, lost: list[_Line], ids: dict[int, tuple[int, ...]]) -> Problem:
    return Problem(kind, name, message, len({ids[line.number][2] for line in lost}), len(lost))
