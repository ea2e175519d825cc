"""Conversion of annotations into a file of JSON Lines."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from coupalign.annotations import coco, cvat, labelme, mask_files
from coupalign.annotations.objects import AnnotatedObject, Found, LeftOut
from coupalign.annotations.table import ExpressionTable, Row
from coupalign.data.images import image_size
from coupalign.data.masks import annotation_mask, run_lengths
from coupalign.data.tokenizer import has_word
from coupalign.errors import UserError
from coupalign.files import check_directory, make_directory, write_text

FORMATS = {"coco": coco.KEYS, "labelme": labelme.KEYS, "cvat": cvat.KEYS, "masks": mask_files.KEYS}
LINES_FILE, LEFT_OUT_FILE, IMAGES_DIRECTORY = "annotations.jsonl", "left_out.jsonl", "images"


@dataclass(frozen=True)
class AnnotationSource:
    """Where annotations are read from.

    Args:
        kind: One of `FORMATS`.
        annotations: File (COCO, CVAT), file or directory (LabelMe), or directory of masks.
        images: Directory of the images.
        table: CSV of expressions; without it, objects are called by their own texts or else by their labels.
    """

    kind: str
    annotations: Path
    images: Path
    table: Path | None = None


@dataclass(frozen=True)
class Conversion:
    """Result of `convert_annotations`."""

    images: int
    objects: int
    splits: Mapping[str, int]  # expressions by split
    origins: Mapping[str, int]  # expressions by where they come from
    united: list[str]  # expressions that name several objects of an image
    left_out: list[LeftOut]

    def summary(self) -> str:
        """Counts of what was converted and what was not, with the first example of each kind."""
        splits = ", ".join(f"{split} {count:,}" for split, count in self.splits.items())
        origins = ", ".join(f"{count:,} from {origin}" for origin, count in self.origins.items())
        lines = [f"converted: {self.images:,} images, {self.objects:,} objects; expressions by split: {splits}"]
        lines.append(f"expressions: {origins}")
        if self.united:
            lines.append(
                f"united: {len(self.united):,} expressions name several objects of their image, such as "
                f"{self.united[0]}; each gets one mask of all of them"
            )
        counts = Counter(each.reason for each in self.left_out)
        if counts:
            lines.append(f"left out: {counts.total():,}, listed in {LEFT_OUT_FILE}")
        for reason, count in counts.items():
            first = next(each.name for each in self.left_out if each.reason == reason)
            lines.append(f"  {count:,} x {reason}; the first: {first}")
        return "\n".join(lines)


def convert_annotations(source: AnnotationSource, output: Path, val_images: int = 0, skip: bool = False) -> Conversion:
    """Writes annotations.jsonl and left_out.jsonl, and images/ with images that only LabelMe's files contain.

    Paths of images are relative to `output`. Objects of one image that have the same expression become one mask. The
    files appear when everything is converted.

    Args:
        val_images: Number of images whose expressions are the split val; a hash of their names selects them.
        skip: Leave out objects and files that cannot be used, instead of raising the first problem.

    Raises: UserError.
    """
    table = ExpressionTable(source.table, FORMATS[source.kind]) if source.table else None
    if source.kind == "masks" and table is None:
        raise UserError("masks have no expressions of their own: give a table with --expressions")
    if table and val_images and any(row.split for rows in table.rows.values() for row in rows):
        raise UserError(f"{table.path} has a column split: leave out --val_images, or the column")
    check_directory(output)
    with tempfile.TemporaryDirectory(prefix="coupalign-convert-") as staging:
        collected = _Collected(source, output, Path(staging), table, skip)
        for each in tqdm(_read(source, table), desc="objects", disable=None):
            collected.add(each)
        lines, conversion = collected.lines(val_images)
        make_directory(output)
        for image in sorted(each for each in Path(staging).rglob("*") if each.is_file()):
            target = output / IMAGES_DIRECTORY / image.relative_to(staging)
            make_directory(target.parent)
            shutil.move(image, target)
    listed = [
        json.dumps({"reason": each.reason, "name": each.name}, ensure_ascii=False) for each in conversion.left_out
    ]
    write_text(output / LEFT_OUT_FILE, "".join(f"{line}\n" for line in listed))
    write_text(output / LINES_FILE, "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines))
    return conversion


def _read(source: AnnotationSource, table: ExpressionTable | None) -> Iterator[Found]:
    if source.kind == "labelme":
        return labelme.read_labelme(source.annotations, source.images)
    if source.kind == "masks":
        assert table is not None
        return mask_files.read_masks(source.annotations, source.images, table)
    if source.annotations.is_dir():
        raise UserError(f"{source.annotations} is a directory: give the annotation file with --annotations")
    return (coco.read_coco if source.kind == "coco" else cvat.read_cvat)(source.annotations)


class _Collected:
    """Expressions with the masks of their objects, in the order of the annotations."""

    def __init__(
        self, source: AnnotationSource, output: Path, staging: Path, table: ExpressionTable | None, skip: bool
    ):
        self._source, self._output, self._staging = source, output.absolute(), staging
        self._table, self._skip = table, skip
        self._unused = dict(table.rows) if table else {}
        self._masks: dict[tuple[str, str, str], list[dict[str, Any]]] = {}  # by image, expression and split
        self._categories: dict[tuple[str, str, str], dict[str, None]] = {}
        self._origins: Counter[str] = Counter()
        self._left_out: list[LeftOut] = []
        self._objects = 0
        self._size = cache(image_size)

    def add(self, found: Found) -> None:
        """Raises: UserError for what cannot be used, unless it is to be skipped."""
        try:
            if isinstance(found, UserError):
                raise found
            if isinstance(found, LeftOut):
                self._left_out.append(found)
            else:
                self._add_object(found)
        except UserError as error:
            if not self._skip:
                raise
            self._left_out.append(LeftOut("unusable shapes, masks, images or files", str(error)))

    def _add_object(self, found: AnnotatedObject) -> None:
        rows, origin = self._expressions(found)
        spoken = [row for row in rows if has_word(row.expression)]
        if len(spoken) < len(rows) or not rows:
            self._left_out.append(LeftOut("expressions without a word" if rows else "no expression", found.name))
        image = self._image(found) if spoken else None
        if not spoken or image is None:
            return
        mask = self._mask(found, image)
        self._objects += 1
        for row in spoken:
            key = self._written(image), row.expression, row.split
            if key not in self._masks:
                self._origins[origin] += 1
            masks = self._masks.setdefault(key, [])
            if mask not in masks:  # a row of the table may occur twice
                masks.append(mask)
            if category := row.category or found.label:
                self._categories.setdefault(key, {})[category] = None

    def lines(self, val_images: int) -> tuple[list[dict[str, Any]], Conversion]:
        """The lines of the file, and what became of the annotations. Raises: UserError if there is no line."""
        unused = [row for rows in self._unused.values() for row in rows]
        self._left_out += [
            LeftOut("rows of the table that name no object", f"{self._table.path} line {row.number}") for row in unused
        ]
        images = list(dict.fromkeys(image for image, *_ in self._masks))
        if not images:
            why = f"; the first: {self._left_out[0].reason}, {self._left_out[0].name}" if self._left_out else ""
            raise UserError(
                f"{self._source.annotations} has no object with a mask, an expression and an image{why}: check "
                "--annotations, --images and --expressions"
            )
        if not 0 <= val_images < len(images):
            raise UserError(f"--val_images is {val_images}, expected 0 to {len(images) - 1} of {len(images)} images")
        chosen = set(sorted(images, key=lambda name: hashlib.sha256(Path(name).name.encode()).digest())[:val_images])
        lines, united = [], []
        for key, masks in self._masks.items():
            image, expression, split = key
            line: dict[str, Any] = {"image": image, "expression": expression}
            line["mask"] = masks[0] if len(masks) == 1 else masks
            line["split"] = split or ("val" if image in chosen else "train")
            if key in self._categories:
                line["category"] = ", ".join(self._categories[key])
            lines.append(line)
            if len(masks) > 1:
                united.append(f'"{expression}" on {image} ({len(masks)} objects)')
        places = {image: place for place, image in enumerate(images)}
        lines.sort(key=lambda line: places[line["image"]])
        splits = Counter(line["split"] for line in lines)
        return lines, Conversion(len(images), self._objects, splits, self._origins, united, self._left_out)

    def _expressions(self, found: AnnotatedObject) -> tuple[list[Row], str]:
        if self._table:
            self._unused.pop(found.key, None)
            return self._table.rows.get(found.key, []), "the table"
        if found.texts:
            return [Row(0, text) for text in found.texts], "the objects' own texts"
        return [Row(0, found.label)] if found.label else [], "labels"

    def _image(self, found: AnnotatedObject) -> Path | None:
        """The image's file, or None if it is missing. An image inside an annotation becomes a file."""
        for path in (self._source.images / found.image, found.nearby):
            if path is not None and path.is_file():
                return path
        if found.image_content is None:
            self._left_out.append(LeftOut("objects whose image is missing", f"{self._source.images / found.image}"))
            return None
        path = self._staging / found.image
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(found.image_content)
        elif path.read_bytes() != found.image_content:
            raise UserError(f"{found.name}: another file contains a different image {found.image}: rename one of them")
        return path

    def _mask(self, found: AnnotatedObject, image: Path) -> dict[str, Any]:
        height, width = self._size(image)
        if found.size not in (None, (height, width)):
            raise UserError(
                f"{found.name} is for an image of {found.size[0]} x {found.size[1]} pixels (height x width), {image} "
                f"has {height} x {width} as viewers show it: use the image that was annotated"
            )
        return run_lengths(annotation_mask({"name": found.name, "segmentation": found.segmentation}, height, width))

    def _written(self, image: Path) -> str:
        """The path relative to the output."""
        if image.is_relative_to(self._staging):
            return (Path(IMAGES_DIRECTORY) / image.relative_to(self._staging)).as_posix()
        return Path(os.path.relpath(image.absolute(), self._output)).as_posix()
