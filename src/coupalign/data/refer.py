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
from coupalign.data.tokenizer import has_word
from coupalign.errors import UserError

_OWN_FILE = "use the REFER tool's own file"
# The fields of instances.json that are read; the others are dropped while parsing.
_WHOLE = ("id", "image_id", "category_id", "height", "width")  # some tools write 120.0
_KEPT = {*_WHOLE, "images", "annotations", "categories", "file_name", "name", "segmentation", "size", "counts"}


def read_refer(annotations: Path, images: Path | None, split_by: str, skip: bool = False) -> ReferDataset:
    """Reads and checks a data set. Images are only looked for, not opened.

    An ann_id that is text, as in ReferIt, becomes the annotation's index in instances.json.

    Args:
        annotations: Directory with refs(<split_by>).p and instances.json.
        images: Directory of the images: COCO's train2014 or its parent; for ReferIt, saiapr_tc-12 as a tree or flat, or
            its parent. None skips the search.
        split_by: Author of the splits: unc, umd, google, berkeley.
        skip: Leave out referents and expressions that cannot be used, instead of raising the first problem.

    Raises:
        UserError: Something is missing or inconsistent.
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
        raise UserError(f"{refs_file} is not a list of referents: {_OWN_FILE}")
    problems, referents = Problems(skip), []
    as_places = any(isinstance(key, str) for key in by_id)
    numbers: dict[Any, Any] = {key: place if as_places else key for place, key in enumerate(by_id)}
    for place, ref in enumerate(refs):
        ref_id: Any = ref.get("ref_id") if isinstance(ref, dict) else None
        name = f"referent {ref_id}" if is_id(ref_id) else f"entry {place}"
        try:
            _check(ref, by_id, image_entries, categories)
        except UserError as error:
            said = ref.get("sentences") if isinstance(ref, dict) else None
            expressions = len(said) if isinstance(said, list) else 0
            problems.add(Problem("referent", name, f"{refs_file}: {name} {error}", 1, expressions))
            continue
        if sentences := _sentences(ref["sentences"], f"{refs_file}: {name}", name, problems):
            category = categories[ref["category_id"]]
            referents.append(
                Referent(ref_id, numbers[ref["ann_id"]], ref["image_id"], category, ref["split"], sentences)
            )
    referents = _without_repeated(referents, refs_file, problems)
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


def refer_files(annotations: Path, split_by: str) -> tuple[Path, Path]:
    """Returns refs(<split_by>).p and instances.json of a directory. Raises: UserError that names what is there instead."""
    refs, instances = annotations / f"refs({split_by}).p", annotations / "instances.json"
    if not annotations.is_dir():
        raise UserError(
            f"{annotations} is not a directory: give the one of refs({split_by}).p and instances.json with --annotations"
        )
    others = [file.name[5:-3] for file in sorted(annotations.glob("refs(*).p"))]
    below = [str(file.parent) for file in sorted(annotations.glob(f"*/{refs.name}"))]
    if not refs.is_file() and others:
        raise UserError(
            f"{refs} is missing, but there is refs({others[0]}).p: set --split_by {others[0]}, or get "
            f"{refs.name} of the REFER tool"
        )
    if not refs.is_file() and below:
        raise UserError(
            f"{refs} is missing, but is in {' and '.join(below)}: give the data set's own directory with --annotations"
        )
    for file in (refs, instances):
        if not file.is_file():
            raise UserError(
                f"{file} is missing: put {refs.name} and instances.json of the REFER tool into "
                f"{annotations}, or give their directory with --annotations"
            )
    return refs, instances


def _read_instances(path: Path) -> dict[str, Any]:
    try:
        instances = json.loads(path.read_bytes(), object_hook=_kept)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): download it again") from error
    for part in ("images", "annotations", "categories"):
        if not isinstance(instances, dict) or not isinstance(instances.get(part), list):
            raise UserError(f"{path} has no list of {part}: {_OWN_FILE}")
    return instances


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


def _keyed(entries: list[Any], what: str, **needed: Callable[[object], Any]) -> dict[int | str, Any]:
    """Returns the entries of instances.json by id."""
    by_id = {}
    for place, entry in enumerate(entries):
        for key, fits in {"id": _is_key, **needed}.items():
            if not isinstance(entry, dict) or key not in entry:
                raise UserError(f"{what} number {place} has no {key}: {_OWN_FILE}")
            if not fits(entry[key]):
                raise UserError(f"{what} number {place} has the {key} {shown(entry[key])}: {_OWN_FILE}")
        if entry["id"] in by_id:
            raise UserError(f"{what} id {shown(entry['id'])} occurs twice: use different ids")
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
    """Raises: UserError that says what is wrong with a referent; its name comes before the message."""
    if not isinstance(ref, dict):
        raise UserError(f"is a {type(ref).__name__} instead of a referent: {_OWN_FILE}")
    for key, fits in _FIELDS.items():
        if key not in ref:
            raise UserError(f"has no {key}: {_OWN_FILE}")
        if not fits(ref[key]):
            raise UserError(f"has the {key} {shown(ref[key])}: {_OWN_FILE}")
    remedy = "refs and instances.json belong to different data sets or versions, use files that belong together"
    for key, known in (("ann_id", annotations), ("image_id", images), ("category_id", categories)):
        if ref[key] not in known:
            raise UserError(f"{key} {shown(ref[key])} is not in instances.json: {remedy}")
    image_id = annotations[ref["ann_id"]]["image_id"]
    if image_id != ref["image_id"]:
        raise UserError(f"annotation {shown(ref['ann_id'])} is on image {image_id}, not on {ref['image_id']}: {remedy}")


def _without_repeated(referents: list[Referent], file: Path, problems: Problems) -> list[Referent]:
    times = Counter(referent.ref_id for referent in referents)
    for referent in referents:
        if times[referent.ref_id] > 1:
            message = f"{file}: ref_id {referent.ref_id} occurs twice: use different ids"
            problems.add(Problem("referent", f"referent {referent.ref_id}", message, 1, len(referent.sentences)))
    return [referent for referent in referents if times[referent.ref_id] == 1]


def _sentences(said: list[Any], where: str, name: str, problems: Problems) -> tuple[Sentence, ...]:
    """Returns the sentences that have a word: as cleaned by REFER (sent) or, without a word there, as typed (raw)."""
    kept, lost = [], []
    for place, sentence in enumerate(said):
        if not isinstance(sentence, dict) or not is_id(sentence.get("sent_id")):
            lost.append((place, "has no sent_id that is a number", True))
        elif not any(isinstance(sentence.get(key), str) for key in ("sent", "raw")):
            lost.append((place, "has no text, neither sent nor raw", True))
        elif text := next(filter(has_word, (as_text(sentence.get("sent")), as_text(sentence.get("raw")))), ""):
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
        # The authors' own files contain expressions without a word.
        problems.add(problem) if is_wrong else problems.found.append(problem)
    return tuple(kept)


def _images(
    referents: Iterable[Referent],
    entries: Mapping[int | str, Any],
    directory: Path | None,
    file: Path,
    problems: Problems,
) -> dict[int, Image]:
    """Returns the images of referents by ascending image_id."""
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
                message=f"{problem.message}{more}: give the directory of the images with --images, "
                "or download what is missing",
            )
        )
    return used


def _finder(directory: Path | None) -> Callable[[str], Path]:
    """Returns a function from file_name to the image in `directory` or its train2014 or saiapr_tc-12.

    ReferIt's images are either in one directory or in IAPR TC-12's own tree <part>/images/<name>; file_name has either
    form.
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
