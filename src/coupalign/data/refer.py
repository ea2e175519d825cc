"""Data sets in the layout of the REFER tool: refs(<splitBy>).p, instances.json and a directory of images.

gRefCOCO's grefs(<splitBy>).json differs in that ``ann_id`` and ``category_id`` may be lists, and ``no_target`` may be
true. Both files are read by the same rules.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from coupalign.data.masks import packed
from coupalign.data.plain_pickle import load_plain_pickle
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
    is_size,
    is_split,
    shown,
)
from coupalign.data.tokenizer import has_word
from coupalign.errors import UserError

_OWN_FILE = "use the data set's own file"
_NOTHING = [-1]  # gRefCOCO's ann_id and category_id where no_target is true
# The fields of instances.json that are read; the others are dropped while parsing.
_WHOLE = ("id", "image_id", "category_id", "height", "width")  # some tools write 120.0
_KEPT = {*_WHOLE, "images", "annotations", "categories", "file_name", "name", "segmentation", "size", "counts"}


def read_refer(
    annotations: Path, images: Path, split_by: str, skip: bool = False, generalised: bool = False
) -> ReferDataset:
    """Reads and checks a data set. Images are only looked for, not opened.

    An ann_id that is text, as in ReferIt, becomes the annotation's index in instances.json.

    Args:
        annotations: Directory with refs(<split_by>).p, or grefs(<split_by>).json, and instances.json.
        images: Directory of the images, or its parent (``_finder``).
        skip: Leave out referents and expressions that cannot be used, instead of raising the first problem.
        generalised: Read grefs(<split_by>).json.

    Raises: UserError if something is missing or inconsistent.
    """
    refs_file, instances_file = _files(annotations, f"grefs({split_by}).json" if generalised else f"refs({split_by}).p")
    instances = _read_instances(instances_file)
    by_id = _keyed(instances["annotations"], f"{instances_file}: annotation", image_id=is_id)
    image_entries = _keyed(instances["images"], f"{instances_file}: image")
    categories = {
        key: as_text(entry["name"])
        for key, entry in _keyed(instances["categories"], f"{instances_file}: category", name=as_text).items()
    }
    refs = _read_json(refs_file) if generalised else load_plain_pickle(refs_file)
    if not isinstance(refs, list) or not refs:
        raise UserError(f"{refs_file} is not a list of referents: {_OWN_FILE}")
    problems, referents = Problems(skip), []
    as_places = any(isinstance(key, str) for key in by_id)
    numbers: dict[Any, Any] = {key: place if as_places else key for place, key in enumerate(by_id)}
    ref_ids: list[Any] = [ref.get("ref_id") if isinstance(ref, dict) else None for ref in refs]
    times = Counter(filter(is_id, ref_ids))
    for place, (ref_id, ref) in enumerate(zip(ref_ids, refs)):
        name = f"referent {ref_id}" if is_id(ref_id) else f"entry {place}"
        where = f"{refs_file}: {name}"
        try:
            ann_ids, category_ids = _check(ref, where, by_id, image_entries, categories)
            if times[ref_id] > 1:
                raise UserError(f"{where}: ref_id {ref_id} occurs twice: use different ids")
        except UserError as error:
            said = ref.get("sentences") if isinstance(ref, dict) else None
            problems.add(Problem("referent", name, str(error), 1, len(said) if isinstance(said, list) else 0))
            continue
        if sentences := _sentences(ref["sentences"], where, name, problems):
            objects, names = tuple(numbers[key] for key in ann_ids), ", ".join(categories[key] for key in category_ids)
            referents.append(Referent(ref_id, objects, ref["image_id"], category_ids, names, ref["split"], sentences))
    used = _images(referents, image_entries, images, instances_file, problems)
    usable = tuple(referent for referent in referents if referent.image_id in used)
    if not usable:
        raise UserError(f"no referent of {refs_file} can be used; the first problem: {problems.found[0].message}")
    kept = {
        numbers[key]: {"category_id": None, "segmentation": None, **annotation}
        for key, annotation in by_id.items()
        if annotation["image_id"] in used
    }
    annotations_of: dict[int, list[int]] = {image_id: [] for image_id in used}
    for ann_id, annotation in kept.items():
        annotations_of[annotation["image_id"]].append(ann_id)
    return ReferDataset((refs_file, instances_file), usable, used, kept, annotations_of, tuple(problems.found))


def _files(annotations: Path, refs_name: str) -> tuple[Path, Path]:
    files = annotations / refs_name, annotations / "instances.json"
    pattern = re.sub(r"\(.*\)", "(*)", refs_name)
    for file in files:
        if not file.is_file():
            others = {*annotations.glob(pattern), *annotations.glob(f"*/{pattern}")} - {files[0]}
            raise UserError(
                f"{file} is missing{', but there is ' * bool(others)}{', '.join(sorted(map(str, others)))}: give the "
                f"directory of {files[0].name} and instances.json with --annotations, and the author of the splits "
                "with --split_by"
            )
    return files


def _read_instances(path: Path) -> dict[str, Any]:
    instances = _read_json(path, _kept)
    for part in ("images", "annotations", "categories"):
        if not isinstance(instances, dict) or not isinstance(instances.get(part), list):
            raise UserError(f"{path} has no list of {part}: {_OWN_FILE}")
    return instances


def _read_json(path: Path, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    try:
        return json.loads(path.read_bytes(), object_hook=object_hook)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): download it again") from error


def _kept(entry: dict[str, Any]) -> dict[str, Any]:
    """Called while parsing, so that the file's hundred megabytes are never in memory as Python objects."""
    entry = {
        key: int(value) if isinstance(value, float) and key in _WHOLE and value.is_integer() else value
        for key, value in entry.items()
        if key in _KEPT
    }
    if "segmentation" in entry:
        entry["segmentation"] = packed(entry["segmentation"])
    return entry


def _require(entry: Any, where: str, fields: Mapping[str, Callable[[Any], Any]]) -> None:
    """Raises: UserError if `entry` is not a dictionary with these fields, which fit their tests."""
    if not isinstance(entry, dict):
        raise UserError(f"{where} is a {type(entry).__name__} without {', '.join(fields)}: {_OWN_FILE}")
    for key, fits in fields.items():
        if key not in entry:
            raise UserError(f"{where} has no {key}: {_OWN_FILE}")
        if not fits(entry[key]):
            raise UserError(f"{where} has the {key} {shown(entry[key])}: {_OWN_FILE}")


def _keyed(entries: list[Any], what: str, **needed: Callable[[object], Any]) -> dict[int | str, Any]:
    """Returns the entries of instances.json by id."""
    by_id = {}
    for place, entry in enumerate(entries):
        _require(entry, f"{what} number {place}", {"id": _is_key, **needed})
        if entry["id"] in by_id:
            raise UserError(f"{what} id {shown(entry['id'])} occurs twice: use different ids")
        by_id[entry["id"]] = entry
    return by_id


def _is_key(value: object) -> bool:
    return isinstance(value, str) or is_id(value)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


_REFERENT: dict[str, Callable[[object], bool]] = {
    "ref_id": is_id,
    "ann_id": lambda value: all(map(_is_key, _listed(value))),
    "image_id": is_id,
    "category_id": lambda value: all(map(_is_key, _listed(value))),
    "split": is_split,
    "sentences": lambda value: isinstance(value, list) and bool(value),
}
_IMAGE: dict[str, Callable[[object], bool]] = {
    "file_name": lambda value: isinstance(value, str),
    "height": is_size,
    "width": is_size,
}


def _check(
    ref: Any, where: str, annotations: Mapping, images: Mapping, categories: Mapping
) -> tuple[list[Any], tuple[Any, ...]]:
    """Returns the ann_ids of a referent, and its different category_ids. Raises: UserError that says what is wrong."""
    _require(ref, where, _REFERENT)
    no_target = ref.get("no_target", False)
    if not isinstance(no_target, bool):
        raise UserError(f"{where} has the no_target {shown(no_target)}: {_OWN_FILE}")
    ann_ids, category_ids = _listed(ref["ann_id"]), _listed(ref["category_id"])
    if no_target:
        if ann_ids not in ([], _NOTHING):
            listed = ", ".join(map(shown, ann_ids))
            raise UserError(f"{where} has no_target, but also ann_id {listed}: {_OWN_FILE}")
        ann_ids, category_ids = [], [] if category_ids == _NOTHING else category_ids
    elif not ann_ids or not category_ids:
        empty = "category_id" if ann_ids else "ann_id"
        raise UserError(f"{where} has an empty {empty} without no_target: {_OWN_FILE}")
    remedy = "refs and instances.json belong to different data sets or versions, use files that belong together"
    known_by = [("ann_id", ann_ids, annotations), ("image_id", [ref["image_id"]], images)]
    for key, values, known in [*known_by, ("category_id", category_ids, categories)]:
        for value in values:
            if value not in known:
                raise UserError(f"{where}: {key} {shown(value)} is not in instances.json: {remedy}")
    for ann_id, times in Counter(ann_ids).items():
        if times > 1:
            raise UserError(f"{where}: ann_id {shown(ann_id)} is listed twice: {_OWN_FILE}")
        image_id = annotations[ann_id]["image_id"]
        if image_id != ref["image_id"]:
            shown_id = shown(ann_id)
            raise UserError(
                f"{where}: annotation {shown_id} is on image {image_id}, not on {ref['image_id']}: {remedy}"
            )
    return ann_ids, tuple(dict.fromkeys(category_ids))


def _sentences(said: list[Any], where: str, name: str, problems: Problems) -> tuple[Sentence, ...]:
    """Returns the sentences that have a word: as cleaned by REFER (sent) or, without a word there, as typed (raw)."""
    kept, lost = [], []
    for place, sentence in enumerate(said):
        kind = "expression"
        if not isinstance(sentence, dict) or not is_id(sentence.get("sent_id")):
            what = "has no sent_id that is a number"
        elif not any(isinstance(sentence.get(key), str) for key in ("sent", "raw")):
            what = "has no text, neither sent nor raw"
        elif text := next(filter(has_word, (as_text(sentence.get("sent")), as_text(sentence.get("raw")))), ""):
            kept.append(Sentence(sentence["sent_id"], text, as_text(sentence.get("family"))))
            continue
        else:
            kind, what = EMPTY, "has no word"
        lost.append(Problem(kind, f"{name}, sentence {place}", f"{where}: sentence {place} {what}: {_OWN_FILE}", 0, 1))
    if not kept:
        lost[-1] = replace(lost[-1], referents=1)
    for problem in lost:
        problems.add(problem)
    return tuple(kept)


def _images(
    referents: Iterable[Referent], entries: Mapping, directory: Path, file: Path, problems: Problems
) -> dict[int, Image]:
    """Returns the images of referents by ascending image_id."""
    of_image: dict[int, list[Referent]] = {}
    for referent in referents:
        of_image.setdefault(referent.image_id, []).append(referent)
    used: dict[int, Image] = {}
    missing = []
    find = _finder(directory)
    for image_id, lost in sorted(of_image.items()):
        entry, counts = entries[image_id], (len(lost), sum(len(referent.sentences) for referent in lost))
        try:
            _require(entry, f"{file}: image {image_id}", _IMAGE)
        except UserError as error:
            problems.add(Problem("image", f"image {image_id}", str(error), *counts))
            continue
        path = find(entry["file_name"])
        if os.path.isfile(path):
            used[image_id] = Image(path, entry["height"], entry["width"])
        else:
            missing.append((path, counts))
    more = f", and {len(missing) - 1:,} more" * (len(missing) > 1)
    remedy = "give the directory of the images with --images, or download what is missing"
    for path, counts in missing:
        problems.add(Problem("image", str(path), f"{path} is missing{more}: {remedy}", *counts))
    return used


def _finder(directory: Path) -> Callable[[str], Path]:
    """Returns a function from file_name to the image in `directory` or its train2014 or saiapr_tc-12.

    ReferIt's images are either in one directory or in IAPR TC-12's own tree <part>/images/<name>; file_name has either
    form.
    """
    roots = directory, directory / "train2014", directory / "saiapr_tc-12"
    tree = cache(lambda: {path.name: path for root in roots for path in root.glob("*/images/*")})

    def find(name: str) -> Path:
        plain = name.rpartition("/")[2]
        for path in (root / each for each in (name, plain) for root in roots):
            if os.path.isfile(path):
                return path
        return tree().get(plain, directory / name)

    return find
