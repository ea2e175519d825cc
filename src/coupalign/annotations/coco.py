"""Annotations in COCO's JSON, also as CVAT and other programs export it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coupalign.annotations.objects import (
    AnnotatedObject,
    Found,
    LeftOut,
    as_size,
    entries,
    file_key,
    own_texts,
    read_json,
)
from coupalign.data.masks import packed
from coupalign.data.referents import as_text
from coupalign.errors import UserError

KEYS: tuple[tuple[str, ...], ...] = (("annotation",),)
TEXT_ATTRIBUTES = ("expression", "caption", "description")


def read_coco(path: Path) -> Iterator[Found]:
    """Reads polygons, run lengths (compressed or not) and crowds.

    An annotation's own expressions are its ``caption``, or ``expression``, ``caption`` and ``description`` of its
    ``attributes`` (CVAT). A table names annotations by ``id``. Raises: UserError.
    """
    content = read_json(path)
    images = _by_id(content, "images", path)
    categories = _by_id(content, "categories", path) if "categories" in content else {}
    for entry in _by_id(content, "annotations", path).values():
        name = f"{path}: annotation {entry['id']}"
        image = _looked_up(images, entry.get("image_id"))
        if not isinstance(image.get("file_name"), str):
            problem = f"{name} has the image_id {entry.get('image_id')!r:.40}, which is no image with a file_name"
            yield UserError(f"{problem}: correct or remove it")
            continue
        segmentation = entry.get("segmentation")
        if not segmentation:
            reason = "no mask, only a box" if entry.get("bbox") else "no mask, such as captions of whole images"
            yield LeftOut(reason, name)
            continue
        attributes = entry.get("attributes")
        attributes = attributes if isinstance(attributes, dict) else {}
        texts = own_texts(entry.get("caption"), *(attributes.get(key) for key in TEXT_ATTRIBUTES))
        yield AnnotatedObject(
            name=name,
            image=file_key(image["file_name"]),
            segmentation=packed(segmentation if isinstance(segmentation, list) else [segmentation]),
            key=(str(entry["id"]),),
            label=as_text(_looked_up(categories, entry.get("category_id")).get("name")),
            texts=texts,
            size=as_size(image.get("height"), image.get("width")),
        )


def _looked_up(found: dict[Any, dict[str, Any]], key: object) -> dict[str, Any]:
    return found.get(key, {}) if isinstance(key, (int, str)) else {}


def _by_id(content: dict[str, Any], kind: str, path: Path) -> dict[Any, dict[str, Any]]:
    found: dict[Any, dict[str, Any]] = {}
    for place, entry in enumerate(entries(content, kind, path)):
        key = entry.get("id")
        if not isinstance(key, (int, str)) or key in found:
            problem = "occurs twice" if isinstance(key, (int, str)) else "is not a number"
            raise UserError(f"{path}: the id of {kind} number {place} {problem}: give each a number of its own")
        found[key] = entry
    return found
