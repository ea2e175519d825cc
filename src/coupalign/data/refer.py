"""Data sets in the layout of the REFER tool: refs(<splitBy>).p, instances.json and a directory of images."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
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
from coupalign.errors import UserError

_OWN_FILE = "take the REFER tool's own file"
# All that is read of instances.json; the rest is dropped while parsing.
_KEPT = {
    "images",
    "annotations",
    "categories",
    "id",
    "file_name",
    "height",
    "width",
    "name",
    "image_id",
    "category_id",
    "segmentation",
    "size",
    "counts",
}


def read_refer(annotations: Path, images: Path | None, split_by: str, skip: bool = False) -> ReferDataset:
    """Reads and checks a data set; images are only looked for, not opened.

    An ann_id that is text, as ReferIt's are, becomes the annotation's place in instances.json, from 0.

    Args:
        annotations: directory with refs(<split_by>).p and instances.json.
        images: directory of the images: COCO's train2014 or its parent; for ReferIt, saiapr_tc-12 as a tree or flat, or
            its parent. None does without them.
        split_by: who split the data: unc, umd, google, berkeley.
        skip: leave out referents and expressions that cannot be used, rather than raise what is wrong with the first.

    Raises: UserError that names what is missing or does not fit.
    """
    refs_file, instances_file = refer_files(annotations, split_by)
    instances = _read_instances(instances_file)
    by_id = _keyed(instances["annotations"], f"{instances_file}: annotation", image_id=is_id)
    image_entries = _keyed(instances["images"], f"{instances_file}: image")
    categories = {
        key: as_text(entry["name"])
        for key, entry in _keyed(instances["categories"], f"{instances_file}: category", name=as_text).items()
    }
    refs = load_plain_pickle(refs_file)
    if not isinstance(refs, list) or not refs:
        raise UserError(f"{refs_file} holds no list of referents: {_OWN_FILE}")
    problems, referents = Problems(skip), []
    as_places = any(isinstance(key, str) for key in by_id)
    numbers = {key: place if as_places else key for place, key in enumerate(by_id)}
    for place, ref in enumerate(refs):
        ref_id = ref.get("ref_id") if isinstance(ref, dict) else None
        name = f"referent {ref_id}" if is_id(ref_id) else f"entry {place}"
        try:
            _check(ref, by_id, image_entries, categories)
        except UserError as error:
            said = ref.get("sentences") if isinstance(ref, dict) else None
            problems.add(
                Problem("referent", name, f"{refs_file}: {name} {error}", 1, len(said) if isinstance(said, list) else 0)
            )
            continue
        sentences = _sentences(ref["sentences"], f"{refs_file}: {name}", name, problems)
        if sentences:
            referents.append(
                Referent(
                    ref_id,
                    numbers[ref["ann_id"]],
                    ref["image_id"],
                    categories[ref["category_id"]],
                    ref["split"],
                    sentences,
                )
            )
    referents = _without_repeated(referents, refs_file, problems)
    used = _images(referents, image_entries, images, instances_file, problems)
    referents = tuple(referent for referent in referents if referent.image_id in used)
    if not referents:
        raise UserError(f"no referent of {refs_file} can be used; the first one's trouble: {problems.found[0].message}")
    kept = {
        numbers[key]: {"category_id": None, "segmentation": None, **annotation}
        for key, annotation in by_id.items()
        if annotation["image_id"] in used
    }
    annotations_of: dict[int, list[int]] = {image_id: [] for image_id in used}
    for ann_id, annotation in kept.items():
        annotations_of[annotation["image_id"]].append(ann_id)
    return ReferDataset((refs_file, instances_file), referents, used, kept, annotations_of, tuple(problems.found))


def refer_files(annotations: Path, split_by: str) -> tuple[Path, Path]:
    """refs(<split_by>).p and instances.json of a directory. Raises: UserError that says what is there instead."""
    refs, instances = annotations / f"refs({split_by}).p", annotations / "instances.json"
    if not annotations.is_dir():
        raise UserError(
            f"{annotations} is no directory: name the one of refs({split_by}).p and instances.json with --annotations"
        )
    others = [file.name[5:-3] for file in sorted(annotations.glob("refs(*).p"))]
    below = [str(file.parent) for file in sorted(annotations.glob(f"*/{refs.name}"))]
    if not refs.is_file() and others:
        raise UserError(
            f"{refs} is missing, {annotations} holds refs({others[0]}).p: set --split_by {others[0]}, or get "
            f"{refs.name} of the REFER tool"
        )
    if not refs.is_file() and below:
        raise UserError(
            f"{refs} is missing, but is in {' and '.join(below)}: name the data set's own directory with --annotations"
        )
    for file in (refs, instances):
        if not file.is_file():
            raise UserError(
                f"{file} is missing: put {refs.name} and instances.json of the REFER tool into "
                f"{annotations}, or name their directory with --annotations"
            )
    return refs, instances


def _read_instances(path: Path) -> dict[str, Any]:
    try:
        instances = json.loads(path.read_bytes(), object_hook=_kept)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): fetch it again") from error
    for part in ("images", "annotations", "categories"):
        if not isinstance(instances, dict) or not isinstance(instances.get(part), list):
            raise UserError(f"{path} has no list of {part}: {_OWN_FILE}")
    return instances


def _kept(entry: dict[str, Any]) -> dict[str, Any]:
    """Called while parsing, so that the file's hundred megabytes never stand in memory as Python's objects."""
    entry = {key: value for key, value in entry.items() if key in _KEPT}
    if "segmentation" in entry:
        entry["segmentation"] = packed(entry["segmentation"])
    return entry


def _keyed(entries: list[Any], what: str, **needed: Callable[[object], bool]) -> dict[int | str, Any]:
    """Entries of instances.json by their id."""
    by_id = {}
    for place, entry in enumerate(entries):
        for key, fits in {"id": _is_key, **needed}.items():
            if not isinstance(entry, dict) or key not in entry:
                raise UserError(f"{what} number {place} has no {key}: {_OWN_FILE}")
            if not fits(entry[key]):
                raise UserError(f"{what} number {place} has {shown(entry[key])} for its {key}: {_OWN_FILE}")
        if entry["id"] in by_id:
            raise UserError(f"{what} id {shown(entry['id'])} occurs twice: one would hide the other, give each its own")
        by_id[entry["id"]] = entry
    return by_id


def _is_key(value: object) -> bool:
    return isinstance(value, str) or is_id(value)


_FIELDS: dict[str, Callable[[object], bool]] = {
    "ref_id": is_id,
    "ann_id": _is_key,
    "image_id": is_id,
    "category_id": _is_key,
    "split": is_split,
    "sentences": lambda value: isinstance(value, list) and bool(value),
}


def _check(
    ref: Any, annotations: Mapping[int | str, Any], images: Mapping[int | str, Any], categories: Mapping[int | str, str]
) -> None:
    """Raises: UserError that says what of a referent does not fit."""
    if not isinstance(ref, dict):
        raise UserError(f"is a {type(ref).__name__}, no referent: {_OWN_FILE}")
    for key, fits in _FIELDS.items():
        if key not in ref:
            raise UserError(f"has no {key}: {_OWN_FILE}")
        if not fits(ref[key]):
            raise UserError(f"has {shown(ref[key])} for its {key}: {_OWN_FILE}")
    mend = "refs and instances.json belong to different data sets or versions, take both from one place"
    for key, known in (("ann_id", annotations), ("image_id", images), ("category_id", categories)):
        if ref[key] not in known:
            raise UserError(f"{key} {shown(ref[key])} is not in instances.json: {mend}")
    image_id = annotations[ref["ann_id"]]["image_id"]
    if image_id != ref["image_id"]:
        raise UserError(f"annotation {shown(ref['ann_id'])} is on image {image_id}, not on {ref['image_id']}: {mend}")


def _without_repeated(referents: list[Referent], file: Path, problems: Problems) -> list[Referent]:
    times = Counter(referent.ref_id for referent in referents)
    for referent in referents:
        if times[referent.ref_id] > 1:
            problems.add(
                Problem(
                    "referent",
                    f"referent {referent.ref_id}",
                    f"{file}: ref_id {referent.ref_id} occurs twice: one would hide the other, give each its own",
                    1,
                    len(referent.sentences),
                )
            )
    return [referent for referent in referents if times[referent.ref_id] == 1]


def _sentences(said: list[Any], where: str, name: str, problems: Problems) -> tuple[Sentence, ...]:
    """What was said, cleaned by REFER (sent), or where that is empty as typed (raw); without what has no word."""
    kept, lost = [], []
    for place, sentence in enumerate(said):
        if not isinstance(sentence, dict) or not is_id(sentence.get("sent_id")):
            lost.append((place, "has no sent_id that is a number", True))
        elif not any(isinstance(sentence.get(key), str) for key in ("sent", "raw")):
            lost.append((place, "has no text, neither sent nor raw", True))
        elif text := as_text(sentence.get("sent")) or as_text(sentence.get("raw")):
            kept.append(Sentence(sentence["sent_id"], text, as_text(sentence.get("family"))))
        else:
            lost.append((place, "has no word", False))
    for place, what, is_wrong in lost:
        problem = Problem(
            "expression" if is_wrong else EMPTY,
            f"{name}, sentence {place}",
            f"{where}: sentence {place} {what}: {_OWN_FILE}",
            int(not kept and place == lost[-1][0]),
            1,
        )
        # The authors' own files have expressions without a word.
        problems.add(problem) if is_wrong else problems.found.append(problem)
    return tuple(kept)


def _images(
    referents: Iterable[Referent],
    entries: Mapping[int | str, Any],
    directory: Path | None,
    file: Path,
    problems: Problems,
) -> dict[int, Image]:
    """The images of referents in ascending order."""
    used: dict[int, Image] = {}
    missing: list[Problem] = []
    find = _finder(directory)
    of_image: dict[int, list[Referent]] = {}
    for referent in referents:
        of_image.setdefault(referent.image_id, []).append(referent)
    for image_id in sorted(of_image):
        entry, lost = entries[image_id], of_image[image_id]
        counts = len(lost), sum(len(referent.sentences) for referent in lost)
        for key, fits in (("file_name", lambda value: isinstance(value, str)), ("height", is_size), ("width", is_size)):
            if not fits(entry.get(key)):
                problems.add(
                    Problem(
                        "image", f"image {image_id}", f"{file}: image {image_id} has no {key}: {_OWN_FILE}", *counts
                    )
                )
                break
        else:
            path = find(entry["file_name"])
            if directory is None or os.path.isfile(path):
                used[image_id] = Image(path, entry["height"], entry["width"])
            else:
                missing.append(Problem("image", str(path), f"{path} is missing", *counts))
    for problem in missing:
        more = f", and {len(missing) - 1:,} more" * (len(missing) > 1)
        problems.add(
            replace(
                problem,
                message=f"{problem.message}{more}: name the directory of the images with --images, "
                "or fetch what is missing",
            )
        )
    return used


def _finder(directory: Path | None) -> Callable[[str], Path]:
    """Where the image of a file_name is, in `directory` or its train2014 or saiapr_tc-12.

    ReferIt's images come flat, or as IAPR TC-12's own tree <part>/images/<name>; file_name has either form.
    """
    if directory is None:
        return Path
    tree: dict[str, Path] | None = None

    def find(name: str) -> Path:
        nonlocal tree
        plain = name.rpartition("/")[2]
        for path in (
            directory / name,
            directory / "train2014" / name,
            directory / "saiapr_tc-12" / name,
            directory / plain,
            directory / "saiapr_tc-12" / plain,
        ):
            if os.path.isfile(path):
                return path
        if tree is None:
            tree = {
                path.name: path for root in (directory, directory / "saiapr_tc-12") for path in root.glob("*/images/*")
            }
        return tree.get(plain, directory / name)

    return find
