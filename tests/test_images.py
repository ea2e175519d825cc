"""Image files of every kind, against Pillow and NumPy."""

from __future__ import annotations

import io
import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from coupalign.data.images import image_size, plain_image
from coupalign.data.transform import load_image
from coupalign.errors import UserError

# Smooth, so that a decoder that goes another way about JPEG's colours would show.
RGB = cv2.resize(np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8), (61, 40))
# What each EXIF orientation asks for, from its definition: where the picture's first row and column are stored.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


def _file(kind: str, picture: Image.Image | None = None, orientation: int = 1, **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    (picture or Image.fromarray(RGB)).save(buffer, kind, exif=exif, **options)
    return buffer.getvalue()


def _pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize(
    "content",
    [
        _file("JPEG"),
        _file("JPEG", progressive=True),
        _file("JPEG", Image.fromarray(RGB).convert("L")),
        _file("PNG"),
        _file("PNG", Image.fromarray(RGB).convert("P")),
        _file("PNG", Image.fromarray(RGB).convert("RGBA")),
    ],
)
def test_plain_files_are_kept_as_they_are(content):
    assert plain_image(content, "a") is content


@pytest.mark.parametrize(("kind", "orientation"), itertools.product(["JPEG", "PNG", "WEBP", "TIFF"], UPRIGHT))
def test_pictures_are_upright(kind, orientation, tmp_path):
    content = _file(kind, orientation=orientation, **({"lossless": True} if kind == "WEBP" else {}))
    expected = UPRIGHT[orientation](_pixels(content))
    np.testing.assert_array_equal(_pixels(plain_image(content, "a")), expected)
    path = tmp_path / "a"
    path.write_bytes(content)
    np.testing.assert_array_equal(load_image(path), expected)
    assert image_size(path) == expected.shape[:2]


def test_annotations_for_the_pixels_as_stored_are_met_where_their_size_allows():
    content = _file("JPEG", orientation=6)
    assert plain_image(content, "a", (40, 61), as_stored=True) is content
    for as_stored in (True, False):
        turned = plain_image(content, "a", (61, 40), as_stored)
        np.testing.assert_array_equal(_pixels(turned), UPRIGHT[6](_pixels(content)))
    with pytest.raises(
        UserError, match=r"image a is 61 x 40 pixels \(height x width\), its annotations are for 40 x 61"
    ):
        plain_image(content, "a", (40, 61))
    half_turn = _file("JPEG", orientation=3)
    assert plain_image(half_turn, "a", (40, 61), as_stored=True) is half_turn
    np.testing.assert_array_equal(_pixels(plain_image(half_turn, "a", (40, 61))), _pixels(half_turn)[::-1, ::-1])


def test_cmyk_becomes_the_same_colours():
    content = _file("JPEG", Image.fromarray(RGB).convert("CMYK"))
    assert np.abs(_pixels(plain_image(content, "a")).astype(int) - _pixels(content)).max() <= 1
    assert Image.open(io.BytesIO(plain_image(content, "a"))).mode == "RGB"


@pytest.mark.parametrize("pixels", [RGB, RGB[..., 0]])
def test_sixteen_bits_keep_the_upper_eight(pixels, tmp_path):
    deep = pixels.astype(np.uint16) * 256 + 200
    path = tmp_path / "deep.png"
    cv2.imwrite(str(path), deep[..., ::-1] if deep.ndim == 3 else deep)
    np.testing.assert_array_equal(load_image(path), pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, 2))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_files_that_end_early_are_refused(kind, share):
    content = _file(kind, **({"quality": 95} if kind == "JPEG" else {}))
    with pytest.raises(UserError, match="image a.bc ends early|image a.bc is no image"):
        plain_image(content[: int(len(content) * share)], "a.bc")


def test_the_end_of_a_thumbnail_is_not_taken_for_the_pictures():
    content = _file("JPEG")
    thumbnail = b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content  # as an application's segment
    whole = content[:2] + thumbnail + content[2:]
    assert plain_image(whole, "a") is whole
    with pytest.raises(UserError, match="ends early"):
        plain_image(whole[:-40], "a")


@pytest.mark.parametrize("content", [b"", b"text", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"<html></html>"])
def test_what_is_no_image_is_refused_by_name(content, tmp_path):
    with pytest.raises(UserError, match=r"image x\.jpg is no image, or a damaged one"):
        plain_image(content, "x.jpg")
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match="no image"):
        image_size(path)


@settings(max_examples=1500, deadline=None)
@given(
    st.sampled_from([_file("JPEG"), _file("PNG"), _file("JPEG", orientation=6), _file("WEBP"), _file("TIFF")]),
    st.data(),
)
def test_broken_bytes_are_an_image_or_an_error(content, data):
    broken = bytearray(content)
    for _ in range(data.draw(st.integers(1, 6))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    broken = bytes(broken[: data.draw(st.integers(0, len(broken)))] if data.draw(st.booleans()) else broken)
    try:
        plain = plain_image(broken, "a")
    except UserError as error:
        assert str(error).startswith("image a ")
    else:
        assert cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_COLOR) is not None
