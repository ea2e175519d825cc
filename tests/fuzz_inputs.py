"""Random images, masks and requests: each ends in the right value or in one clear line.

    python -m tests.fuzz_inputs --count 10000

An image may have any format, mode, orientation, truncation, damage and trailing bytes. Every loader must return the
pixels that Pillow shows, or raise an error of one line. Masks must show the object that was drawn, or be refused.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps

from coupalign.data.images import encode_record, image_size, load_image
from coupalign.data.masks import mask_from_file
from coupalign.errors import UserError
from coupalign.files import REPOSITORY
from coupalign.inference.request_file import read_requests

Random = np.random.Generator
# (format, mode, options): everything that phones, scanners and editors write.
KINDS = [
    *(("JPEG", mode, {"quality": quality, "subsampling": 2}) for mode in ("RGB", "L", "CMYK") for quality in (40, 92)),
    ("JPEG", "RGB", {"progressive": True}),
    *(("PNG", mode, {}) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")),
    *(("TIFF", mode, {"compression": how}) for mode in ("RGB", "L", "RGBA") for how in (None, "tiff_lzw", "jpeg")),
    *(("WEBP", mode, {"lossless": lossless}) for mode in ("RGB", "RGBA") for lossless in (True, False)),
    ("BMP", "RGB", {}),
    ("GIF", "P", {}),
    ("PPM", "RGB", {}),
]
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


def _by_prepare(path: Path) -> np.ndarray:
    from mindspore.dataset import vision

    return vision.Decode()(np.frombuffer(encode_record(path.read_bytes(), path), np.uint8))


sys.path.append(str(REPOSITORY / "deploy"))  # its modules are in no package
model_inputs, predict_files = map(importlib.import_module, ("model_inputs", "predict_files"))
# Name of a program's loader: path -> (H, W, 3) uint8; it raises an exception with a message of one line.
LOADERS: dict[str, Callable[[Path], np.ndarray]] = {
    "predict": load_image,
    "prepare": _by_prepare,
    "deployed": model_inputs.load_image,
}


def random_image(random: Random) -> tuple[bytes, bool]:
    """Returns the content of a file, and whether its bytes were changed."""
    kind, mode, options = KINDS[random.integers(len(KINDS))]
    height, width = random.integers(1, 60, 2)
    coarse = random.integers(0, 256, (3, 4, 3), np.uint8)
    picture = Image.fromarray(coarse).resize((int(width), int(height)), Image.Resampling.BILINEAR)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    elif mode == "LA":
        picture = picture.convert("RGBA").convert("LA")
    else:
        picture = picture.convert(mode)
    if options.get("compression") == "jpeg" and mode == "RGBA":
        picture = picture.convert("RGB")
    orientation = int(random.integers(1, 9) if kind == "TIFF" else random.integers(0, 10))  # libtiff writes only 1 to 8
    options = dict(options)
    if kind in ("JPEG", "PNG", "TIFF", "WEBP"):
        if kind in ("JPEG", "WEBP") and random.random() < 0.3:
            options["xmp"] = XMP % orientation
        else:
            exif = Image.Exif()
            exif[0x0112] = orientation
            options["exif"] = exif
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    content = damage(buffer.getvalue(), random)
    return content, content[: buffer.tell()] != buffer.getvalue()[: len(content)]


def damage(content: bytes, random: Random) -> bytes:
    """Cuts, changes or extends the content, half of the time."""
    way = random.integers(8)
    if way == 0:
        content = content[: random.integers(len(content) + 1)]
    elif way == 1:
        content = content[: -int(random.integers(1, 5))]
    elif way == 2:
        content += random.bytes(random.integers(1, 200)) + b"ftypmp42\xff\xd8\xff\xda" * 3
    elif way == 3:
        changed = bytearray(content)
        for _ in range(random.integers(1, 4)):
            changed[random.integers(len(changed))] = random.integers(256)
        content = bytes(changed)
    return content


def pillow_view(content: bytes) -> np.ndarray | None:
    """Returns the first frame of a file, upright, as RGB; None if Pillow does not read it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
            if picture.mode.startswith("I;16"):  # whose upper eight bits count; Pillow would clip
                picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
            return np.asarray(picture.convert("RGB"))
    except Exception:
        return None


def check_image(
    content: bytes, path: Path, loaders: dict[str, Callable[[Path], np.ndarray]] = LOADERS, changed: bool = False
) -> str:
    """Writes `content` to `path` and reads it with all loaders.

    If bytes of a JPEG were `changed`, only the size is compared: decoders fill damaged data in different ways.

    Returns: How it ended. Raises: AssertionError.
    """
    path.write_bytes(content)
    expected = pillow_view(content)
    if expected is None and content.startswith(b"\xff\xd8"):
        # Only the end marker of a JPEG may be missing.
        expected = pillow_view(content + b"\xff\xd9")
    # From some damaged TIFFs, libtiff returns memory that was never written.
    steady = not (changed and content[:2] in (b"\xff\xd8", b"II", b"MM"))
    results = []
    for name, load in loaders.items():
        try:
            results.append(load(path))
        except (UserError, model_inputs.RequestError) as error:
            assert str(path) in str(error) and "\n" not in str(error), (name, str(error))
            continue
        assert expected is not None, f"{name} reads what Pillow refuses"
        if steady:
            np.testing.assert_array_equal(results[-1], expected, name)
        assert results[-1].shape == expected.shape
        assert image_size(path) == expected.shape[:2]
    assert len(results) in (0, len(loaders)), "one loader reads what another refuses"
    return "image read" if results else "image refused"


def check_mask(random: Random, path: Path) -> str:
    """Draws an object in a random kind of mask file. Returns "read" or "refused"; raises AssertionError."""
    height, width = (int(side) for side in random.integers(20, 60, 2))
    top, left = (int(place) for place in random.integers(1, 10, 2))
    drawn = np.zeros((height, width), bool)
    drawn[top : top + 9, left : left + 8] = True
    grey = Image.fromarray(drawn.astype(np.uint8) * 255)
    level = int(random.integers(1, 256))
    options: dict = {}
    way = int(random.integers(9))
    kind = "PNG"
    if way == 0:
        picture = Image.fromarray(drawn.astype(np.uint8) * np.uint8(level))
    elif way == 1:
        picture = Image.fromarray(drawn.astype(np.uint16) * np.uint16(level * 200))
    elif way == 2:
        picture = grey.convert("1")
    elif way == 3:
        picture = grey.convert("RGB").quantize(2)
    elif way == 4:
        picture = Image.fromarray(drawn.astype(np.uint8), "P")
        picture.putpalette(random.integers(0, 256, 6, np.uint8).tolist() if level % 2 else [0, 0, 0, level, 0, 0])
    elif way == 5:
        picture = Image.merge("LA", [Image.new("L", grey.size, level), grey])
    elif way == 6:
        picture = Image.merge("RGBA", [grey, grey, grey, Image.new("L", grey.size, level)])
    elif way == 7:
        kind, picture = ("JPEG", "WEBP")[level % 2], grey
        options["quality"] = int(random.integers(30, 100))
    else:  # a border, other objects or soft edges
        values = drawn.astype(np.uint8) * np.uint8(level)
        values[top + 9] = level // 2 + 1
        picture = Image.fromarray(values)
    picture.save(path, kind, **options)
    try:
        mask = mask_from_file(path, height, width, "line 1")
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        assert way in (4, 7, 8), f"refused: {error}"
        return "mask refused"
    if way == 8:
        assert level // 2 + 1 == level, "an ambiguous mask was read"
    else:
        np.testing.assert_array_equal(mask, drawn)
    return "mask read"


def check_requests(random: Random, directory: Path) -> str:
    """Reads a damaged file of expressions in both programs. Returns "read" or "refused"; raises AssertionError."""
    values = ["a.png", "cup", "none.png", "caf\u00e9", "\ud800", "\0", "", 5, None, ["cup"]]
    whole = [
        {key: values[random.integers(len(values))] if random.random() < 0.2 else right for key, right in line}
        for line in [(("image", "a.png"), ("expression", "cup"))] * 3
    ]
    suffix, separator = ("jsonl", "csv")[random.integers(2)], ",;\t"[random.integers(3)]
    if suffix == "csv":
        text = "\n".join(separator.join(map(str, line)) for line in [whole[0], *(line.values() for line in whole)])
    else:
        text = "\n".join(json.dumps(line, ensure_ascii=bool(random.integers(2))) for line in whole)
    content = text.encode(("utf-8", "utf-8-sig", "utf-16", "latin-1")[random.integers(4)], "backslashreplace")
    file = directory / f"requests.{suffix}"
    file.write_bytes(damage(content, random))
    try:
        rows = predict_files.read_requests(str(file))
    except model_inputs.RequestError as error:
        assert str(file) in str(error) and "\n" not in str(error), str(error)
        rows = []
    try:
        assert rows == read_requests(file)
    except UserError:
        assert not rows
    for image, expression in rows:
        assert predict_files.file_stem(directory / image, expression)
        with contextlib.suppress(model_inputs.RequestError):
            model_inputs.load_image(directory / image)
    return "requests read" if rows else "requests refused"


def run(count: int, seed: int, loaders: dict[str, Callable[[Path], np.ndarray]] = LOADERS) -> Counter:
    """Checks `count` inputs: seven in ten images, two masks and one requests. Returns how they ended."""
    ends: Counter = Counter()
    random = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        Image.new("RGB", (20, 20)).save(directory / "a.png")
        for number in range(count):
            state = random.bit_generator.state
            try:
                if number % 10 < 7:
                    content, changed = random_image(random)
                    ends[check_image(content, directory / "image", loaders, changed)] += 1
                elif number % 10 < 9:
                    ends[check_mask(random, directory / "mask")] += 1
                else:
                    ends[check_requests(random, directory)] += 1
            except Exception as error:
                raise AssertionError(f"input {number} of seed {seed} (state {state['state']}): {error}") from error
    return ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10000, help="number of inputs (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all of them (default: 0)")
    args = parser.parse_args()
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    start = time.monotonic()
    ends = run(args.count, args.seed)
    for end, number in sorted(ends.items()):
        print(f"{end:<16}{number:>8,}")
    print(f"{args.count:,} inputs ended well in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
