"""What to predict: images with their expressions, from the command line or a file."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from coupalign.data.tokenizer import has_word
from coupalign.errors import UserError
from coupalign.files import find_file, read_table, read_text

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

Requests = dict[Path, list[str]]  # the expressions of each image, both without repetitions


def find_requests(
    images: Sequence[str | os.PathLike], expressions: Sequence[str], file: str | os.PathLike | None = None
) -> Requests:
    """The expressions of each image.

    Args:
        images: image files, and directories that stand for all their images.
        expressions: evaluated on each image.
        file: Instead of `expressions`, JSON Lines (.jsonl) with ``{"image": PATH, "expression": TEXT}``, or a table
            (.csv, see ``read_table``) with columns of these names; other fields are ignored. Images are relative to
            the only directory in `images`, or else to the file. Without images in the file, each expression is
            evaluated on each of `images`.

    Raises: UserError if a directory has no images, or the file cannot be used.
    """
    rows = read_requests(file) if file is not None else [("", text) for text in expressions]
    requests: Requests = {}
    if rows[0][0]:
        root = _root(images, Path(file or ""))
        for name, text in rows:
            requests.setdefault(root / name, []).append(text)
    elif images:
        requests = {path: [text for _, text in rows] for image in images for path in find_images(image)}
    else:
        raise UserError("no images: pass --image, or name an image in each line of --expressions")
    return {path: list(dict.fromkeys(texts)) for path, texts in requests.items()}


def find_images(path: str | os.PathLike) -> list[Path]:
    """A file, or the files of a directory with the suffix of an image, sorted by name. Raises: UserError."""
    path = find_file(path)
    found = [path]
    if path.is_dir():
        found = sorted(each for each in path.iterdir() if each.suffix.lower() in IMAGE_SUFFIXES and each.is_file())
    if not found:
        raise UserError(f"directory {path} has no images ({' '.join(IMAGE_SUFFIXES)}): check its path")
    return found


def read_requests(file: str | os.PathLike) -> list[tuple[str, str]]:
    """The image, "" in a file without images, and the expression of each line. Raises: UserError."""
    path = find_file(file)
    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise UserError(f"{path}: expected a name that ends in .jsonl (JSON Lines) or .csv")
    rows: list[tuple[str, str]] = []
    for number, row in (_csv if path.suffix.lower() == ".csv" else _json_lines)(path):
        image, text = row.get("image", ""), row.get("expression")
        if not isinstance(image, str) or not isinstance(text, str) or re.search("[\ud800-\udfff]", image + text):
            raise UserError(f"{path} line {number}: expected an expression and, if needed, an image, as text")
        if not has_word(text):
            raise UserError(f"{path} line {number}: the expression {text!r} has no word: say which object is meant")
        if rows and bool(image) != bool(rows[0][0]):
            raise UserError(f"{path} line {number}: either every line has an image, or none: complete the others")
        rows.append((image, text))
    if not rows:
        raise UserError(f"{path} has no expressions: write one per line")
    return rows


def _json_lines(path: Path) -> Iterator[tuple[int, dict]]:
    for number, line in enumerate(read_text(path, "--expressions").split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path} line {number}: not JSON ({error}): write one object per line") from error
            yield number, row if isinstance(row, dict) else {}


def _csv(path: Path) -> list[tuple[int, dict]]:
    names, rows = read_table(path, "--expressions")
    if "expression" not in names:
        raise UserError(f"{path} line 1: expected names of columns with expression and, if needed, image")
    return rows


def _root(images: Sequence[str | os.PathLike], file: Path) -> Path:
    if not images:
        return find_file(file).parent
    root = find_file(images[0])
    if len(images) > 1 or not root.is_dir():
        raise UserError(f"{file} names its images: pass their directory alone as --image, or leave --image out")
    return root
