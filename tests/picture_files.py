"""Image files of all formats, pixel types and orientations that the loaders of this project must read alike."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

_XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{}"/></x:xmpmeta>'
_FORMATS = {
    "jpg": ("RGB", "L"),
    "png": ("RGB", "L", "RGBA", "LA", "P", "1", "I;16"),
    "webp": ("RGB", "RGBA"),
    "tif": ("RGB", "L", "P", "1", "LA", "I;16"),
    "lzw.tif": ("RGB", "L"),
    "bmp": ("RGB", "L", "P"),
}


def write_picture_files(directory: Path, seed: int = 0) -> list[Path]:
    """Writes an image of each format, pixel type and orientation, by EXIF, or by XMP where EXIF has none."""
    random = np.random.default_rng(seed)
    paths = []
    for (suffix, modes), metadata in itertools.product(_FORMATS.items(), ("exif", "xmp")):
        if metadata == "xmp" and suffix not in ("jpg", "png", "webp"):
            continue
        for mode, orientation in itertools.product(modes, (1,) if suffix == "bmp" else range(1, 9)):
            height, width = random.integers(5, 60, 2).tolist()
            path = directory / f"{mode.replace(';', '')}-{metadata}{orientation}.{suffix}"
            options = {"compression": "tiff_lzw"} if suffix == "lzw.tif" else {}
            picture = _picture(random, height, width, mode)
            if metadata == "exif":
                picture.getexif()[0x0112] = orientation
                options["exif"] = picture.getexif()
            elif suffix == "png":
                options["pnginfo"] = _png_xmp(orientation)
            else:
                options["xmp"] = _XMP.format(orientation).encode()
            picture.save(path, **options)
            paths.append(path)
    for suffix in ("png", "tif"):
        paths.append(directory / f"RGB16.{suffix}")
        cv2.imwrite(str(paths[-1]), random.integers(0, 1 << 16, (20, 30, 3), np.uint16))
    return paths


def _picture(random: np.random.Generator, height: int, width: int, mode: str) -> Image.Image:
    """Smooth colours, so that JPEG keeps them."""
    small = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    rgb = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    if mode == "I;16":
        return Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 250 + np.arange(width, dtype=np.uint16))
    if mode in ("RGBA", "LA"):
        rgb.putalpha(Image.fromarray(random.integers(0, 256, (height, width), dtype=np.uint8)))
    return rgb.convert(mode)


def _png_xmp(orientation: int):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", _XMP.format(orientation))
    return info
