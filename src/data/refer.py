"""Data sets in the layout of the REFER tool: refs(<splitBy>).p, instances.json and a directory of images."""
from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from src.data.plain_pickle import load_plain_pickle
from src.data.referents import Image, Problem, Problems, ReferDataset, Referent, Sentence
from src.errors import UserError


def read_refer(annotations: Path, images: Path, split_by: str, skip: bool = False) -> ReferDataset:
    """Reads and checks a data set; images are only looked for, not opened.

    Args:
        annotations: directory with refs(<split_by>).p and instances.json.
        images: directory with the files that instances.json names.
        split_by: who split the data: unc, umd, google, berkeley.

    Raises: UserError that names what is missing or does not fit.
    """
    refs_file, instances_file = annotations / f"refs({split_by}).p", annotations / "instances.json"
    for file in (refs_file, instances_file):
        if not file.is_file():
            raise UserError(f"{file} is missing: put refs({split_by}).p and instances.json of the REFER tool into "
                            f"{annotations}, or name their directory with --annotations")
    instances = _read_instances(instances_file)
    by_id = _keyed(instances["annotations"], f"{instances_file}: annotation")
    image_entries = _keyed(instances["images"], f"{instances_file}: image")
    categories = {key: entry["name"] for key, entry in _keyed(instances["categories"], f"{instances_file}: category",
                                                             "name").items()}
    refs = load_plain_pickle(refs_file)
    if not isinstance(refs, list) or not refs:
        raise UserError(f"{refs_file} holds no list of referents: take the REFER tool's own file")
    problems = Problems(skip)
    referents = [_referent(ref, refs_file, by_id, image_entries, categories, problems) for ref in refs]
    _refuse_repeated((referent.ref_id for referent in referents), f"{refs_file}: ref_id")
    used = _images({referent.image_id for referent in referents}, image_entries, images, instances_file)
    annotations_of: dict[int, list[int]] = {image_id: [] for image_id in used}
    for ann_id, annotation in by_id.items():
        if annotation.get("image_id") in annotations_of:
            annotations_of[annotation["image_id"]].append(ann_id)
    return ReferDataset((refs_file, instances_file), tuple(r for r in referents if r.sentences), used, by_id,
                        annotations_of, tuple(problems.found))


def _read_instances(path: Path) -> dict[str, Any]:
    try:
        instances = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): fetch it again") from error
    for part in ("images", "annotations", "categories"):
        if not isinstance(instances, dict) or not isinstance(instances.get(part), list):
            raise UserError(f"{path} has no list of {part}: take the REFER tool's own file")
    return instances


def _keyed(entries: list[Any], what: str, *needed: str) -> dict[int, Any]:
    """Entries of instances.json by their id."""
    for position, entry in enumerate(entries):
        for key in ("id", *needed):
            if not isinstance(entry, dict) or key not in entry:
                raise UserError(f"{what} number {position} has no {key}: take the REFER tool's own file")
    _refuse_repeated((entry["id"] for entry in entries), f"{what} id")
    return {entry["id"]: entry for entry in entries}


def _refuse_repeated(values: Iterable[int], what: str) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise UserError(f"{what} {value} occurs twice: one would hide the other, give each its own")
        seen.add(value)


def _referent(ref: Any, file: Path, annotations: Mapping[int, Any], images: Mapping[int, Any],
              categories: Mapping[int, str], problems: Problems) -> Referent:
    """A referent with all its sentences that have a word."""
    if not isinstance(ref, dict):
        raise UserError(f"{file} holds something else than referents: take the REFER tool's own file")
    where = f"{file}: referent {ref.get('ref_id')}"
    for key in ("ref_id", "ann_id", "image_id", "category_id", "split", "sentences"):
        if key not in ref:
            raise UserError(f"{where} has no {key}: take the REFER tool's own file")
    annotation = annotations.get(ref["ann_id"])
    mend = "refs and instances.json belong to different data sets or versions, take both from one place"
    if annotation is None:
        raise UserError(f"{where}: annotation {ref['ann_id']} is not in instances.json: {mend}")
    if ref["image_id"] not in images:
        raise UserError(f"{where}: image {ref['image_id']} is not in instances.json: {mend}")
    if annotation.get("image_id") != ref["image_id"]:
        raise UserError(f"{where}: annotation {ref['ann_id']} is on image {annotation.get('image_id')}, not on "
                        f"{ref['image_id']}: {mend}")
    if ref["category_id"] not in categories:
        raise UserError(f"{where}: category {ref['category_id']} is not in instances.json: {mend}")
    sentences = tuple(_sentence(sentence, where) for sentence in ref["sentences"])
    kept = tuple(sentence for sentence in sentences if sentence.text)
    for sentence in sentences:
        if not sentence.text:
            problems.found.append(Problem("expression", f"referent {ref['ref_id']}, sentence {sentence.sent_id}",
                                          f"{where}: sentence {sentence.sent_id} has no word", int(not kept), 1))
    return Referent(ref["ref_id"], ref["ann_id"], ref["image_id"], categories[ref["category_id"]], str(ref["split"]),
                    kept)


def _sentence(sentence: Any, where: str) -> Sentence:
    """What was said, cleaned by REFER (sent), or where that is empty as typed (raw)."""
    if not isinstance(sentence, dict) or "sent_id" not in sentence or not ("sent" in sentence or "raw" in sentence):
        raise UserError(f"{where} has a sentence without sent_id, or without sent and raw: take the REFER tool's own "
                        "file")
    text = str(sentence.get("sent") or "").strip() or str(sentence.get("raw") or "").strip()
    return Sentence(sentence["sent_id"], text, str(sentence.get("family", "")))


def _images(ids: set[int], entries: Mapping[int, Any], directory: Path, instances_file: Path) -> dict[int, Image]:
    """The images of `ids` in ascending order."""
    used, missing = {}, []
    for image_id in sorted(ids):
        entry = entries[image_id]
        for key in ("file_name", "height", "width"):
            if key not in entry:
                raise UserError(f"{instances_file}: image {image_id} has no {key}: take the REFER tool's own file")
        path = directory / entry["file_name"]
        if not path.is_file():
            missing.append(path)
        used[image_id] = Image(path, entry["height"], entry["width"])
    if missing:
        raise UserError(f"{missing[0]} is missing" + (f", and {len(missing) - 1} images more" * (len(missing) > 1))
                        + ": name the directory of the images with --images")
    return used
