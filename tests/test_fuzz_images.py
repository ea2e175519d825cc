"""Damaged image files of every format and orientation: all loaders return what Pillow shows, or all refuse."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mindspore.dataset import vision
from PIL import Image, ImageOps

from coupalign.data.images import encode_record, image_size, load_image
from coupalign.errors import UserError
from tests.picture_files import write_picture_files
from tests.test_deployment import lite_predict


def _by_prepare(path: Path) -> np.ndarray:
    return vision.Decode()(np.frombuffer(encode_record(path.read_bytes(), path), np.uint8))


# Name of a program's loader: path -> (H, W, 3) uint8; it raises an exception with a message of one line.
LOADERS: dict[str, Callable[[Path], np.ndarray]] = {
    "predict": load_image,
    "prepare": _by_prepare,
    "lite": lite_predict.load_image,
}


def damage(content: bytes, random: np.random.Generator) -> bytes:
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
    """Writes `content` to `path` and reads it with all loaders. Returns "read" or "refused".

    If bytes of a JPEG were `changed`, only the size is compared: decoders fill damaged data in different ways.
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
        except (UserError, lite_predict.RequestError) as error:
            assert str(path) in str(error) and "\n" not in str(error), (name, str(error))
            continue
        assert expected is not None, f"{name} reads what Pillow refuses"
        if steady:
            np.testing.assert_array_equal(results[-1], expected, name)
        assert results[-1].shape == expected.shape
        assert image_size(path) == expected.shape[:2]
    assert len(results) in (0, len(loaders)), "one loader reads what another refuses"
    return "read" if results else "refused"


def test_loaders_agree_on_whole_and_on_damaged_files(tmp_path):
    random, ends = np.random.default_rng(0), Counter()
    for path in write_picture_files(tmp_path):
        whole = path.read_bytes()
        content = damage(whole, random)
        try:
            assert check_image(whole, tmp_path / "image") == "read"
            ends[check_image(content, tmp_path / "image", changed=content[: len(whole)] != whole[: len(content)])] += 1
        except Exception as error:
            raise AssertionError(f"{path.name}: {error}") from error
    assert ends["read"] > 100 and ends["refused"] > 20


def test_a_loader_that_ignores_the_orientation_is_noticed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png", exif=exif)
    content = (tmp_path / "a.png").read_bytes()
    with pytest.raises(AssertionError):
        check_image(content, tmp_path / "b.png", {"wrong": lambda path: np.asarray(Image.open(path).convert("RGB"))})
