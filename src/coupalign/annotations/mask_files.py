"""Label masks: pictures in which every object has an index or a colour of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from coupalign.annotations.objects import AnnotatedObject, Found, LeftOut, file_key, until_error
from coupalign.annotations.table import ExpressionTable
from coupalign.data.images import open_upright, read_content
from coupalign.data.masks import run_lengths
from coupalign.errors import UserError

KEYS: tuple[tuple[str, ...], ...] = (
    ("file", "index"),
    ("file", "colour"),
)
_MOST_VALUES = 1000
_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".jp2", ".ppm")


def read_masks(directory: Path, images: Path, table: ExpressionTable) -> Iterator[Found]:
    """Reads the masks that a table names by file and index, or file and colour (``#rrggbb``).

    The image of a mask has the mask's name, with the suffix of an image. Values that the table does not name are
    listed as left out, except the background: index 0, or black. Raises: UserError.
    """
    files = sorted(each for each in directory.rglob("*") if each.suffix.lower() in _SUFFIXES)
    if not files:
        raise UserError(f"{directory} has no mask ({', '.join(_SUFFIXES)}): check --annotations")
    for file in files:
        yield from until_error(_read_file(file, file_key(str(file.relative_to(directory))), images, table))


def _read_file(file: Path, key: str, images: Path, table: ExpressionTable) -> Iterator[Found]:
    by_index = "index" in table.columns
    image = _image_of(key, file, images)
    values = _values(file, by_index)
    found = np.unique(values).tolist()
    if len(found) > _MOST_VALUES:
        problem = f"mask {file} has {len(found):,} values, more than {_MOST_VALUES:,}"
        raise UserError(f"{problem}: save it without loss and without soft edges, one value per object")
    for value in found:
        written = str(value) if by_index else f"#{value:06x}"
        if (key, written) in table.rows:
            mask = values == value
            yield AnnotatedObject(
                name=f"{file}: {written}",
                image=image,
                segmentation=[run_lengths(mask)],
                key=(key, written),
                size=(mask.shape[0], mask.shape[1]),
            )
        elif value:
            yield LeftOut("no expression", f"{file}: {written}")


def _image_of(key: str, mask: Path, images: Path) -> str:
    """The image of a mask, relative to `images`; a name that does not exist if there is none."""
    stem = Path(key).with_suffix("")
    found = [stem.with_suffix(suffix) for suffix in (*_IMAGES, *map(str.upper, _IMAGES))]
    found = [each for each in found if (images / each).is_file() and not (images / each).samefile(mask)]
    if len(found) > 1:
        listed = " and ".join(map(str, found))
        raise UserError(f"{mask} has two images, {listed} in {images}: keep one image for each mask")
    return found[0].as_posix() if found else f"{stem.as_posix()}.*"


def _values(file: Path, by_index: bool) -> np.ndarray:
    """(H, W) integers: the index of each pixel, or its colour as one number, red first."""
    name = f"mask {file}"
    picture = open_upright(read_content(file, name), name)
    if by_index:
        if picture.mode not in ("1", "L", "P", "I", "I;16"):
            raise UserError(f"{name} has colours ({picture.mode}): name them in a column colour instead of index")
        return np.asarray(picture).astype(np.int64)
    return _rgb(picture, name).astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])


def _rgb(picture: Pillow.Image, name: str) -> np.ndarray:
    if picture.mode not in ("P", "L", "RGB", "RGBA"):
        raise UserError(f"{name} has the pixel type {picture.mode} of Pillow: save it as RGB, 8 bits per channel")
    if picture.mode == "RGBA" and np.asarray(picture)[..., 3].min() < 255:
        raise UserError(f"{name} is partly transparent, so its colours are not certain: save it as RGB")
    return np.asarray(picture.convert("RGB"))
