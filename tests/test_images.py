"""Image files of every kind, against Pillow and the definition of the orientations."""

from __future__ import annotations

import io
import logging
import re

import cv2
import numpy as np
import pytest
from mindspore.dataset import vision
from PIL import Image, ImageOps

from coupalign.data.images import decode_image, encode_record, image_size, load_image
from coupalign.errors import UserError

# Smooth, so that a difference in the decoding of JPEG's colours would show.
RGB = cv2.resize(np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8), (61, 40))
# From the definition of EXIF: where the first row and column of the upright image are stored.
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
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{}"/></x:xmpmeta>'


def file_content(kind: str, picture: Image.Image | None = None, orientation: int = 1, **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    (picture or Image.fromarray(RGB)).save(buffer, kind, **{"exif": exif, **options})
    return buffer.getvalue()


def _pillow(content: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))


def _by_mindspore(record: bytes) -> np.ndarray:
    return vision.Decode()(np.frombuffer(record, np.uint8))


@pytest.mark.parametrize(
    ("kind", "picture"), [("JPEG", "RGB"), ("JPEG", "L"), *(("PNG", mode) for mode in ("RGB", "L", "P", "RGBA"))]
)
def test_ordinary_files_are_stored_unchanged(kind, picture):
    content = file_content(kind, Image.fromarray(RGB).convert(picture))
    assert encode_record(content, "a") is content
    np.testing.assert_array_equal(decode_image(content, "a"), _by_mindspore(content))


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("JPEG", "xmp"),
        ("WEBP", "xmp"),
        ("PNG", "xmp"),
    ],
)
def test_images_are_upright(kind, options, orientation, tmp_path):
    if options != "xmp":
        content = file_content(kind, orientation=orientation, **options)
    elif kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", XMP.format(orientation))
        content = file_content(kind, exif=b"", pnginfo=text)
    else:
        content = file_content(kind, exif=b"", xmp=XMP.format(orientation).encode(), lossless=True)
    # JPEG loses detail, so the reference is the same file without an orientation.
    plain = RGB if kind != "JPEG" else _pillow(file_content("JPEG"))
    expected = UPRIGHT[orientation](plain)
    path = tmp_path / "a"
    path.write_bytes(content)
    np.testing.assert_array_equal(_pillow(content), expected)
    np.testing.assert_array_equal(load_image(path), expected)
    np.testing.assert_array_equal(_by_mindspore(encode_record(content, "a")), expected)
    assert image_size(path) == expected.shape[:2]


def test_annotations_for_the_stored_pixels_ignore_the_orientation_if_the_size_allows():
    content = file_content("JPEG", orientation=6)
    stored = _pillow(file_content("JPEG"))
    np.testing.assert_array_equal(_by_mindspore(encode_record(content, "a", (40, 61), as_stored=True)), stored)
    for as_stored in (True, False):
        np.testing.assert_array_equal(
            _by_mindspore(encode_record(content, "a", (61, 40), as_stored)), UPRIGHT[6](stored)
        )
    with pytest.raises(UserError, match=r"image a is 61 x 40 pixels .*annotations are for 40 x 61"):
        encode_record(content, "a", (40, 61))
    for kind in ("PNG", "JPEG"):
        half_turn = file_content(kind, orientation=3)
        upright = _pillow(half_turn)
        np.testing.assert_array_equal(_by_mindspore(encode_record(half_turn, "a", (40, 61))), upright)
        np.testing.assert_array_equal(
            _by_mindspore(encode_record(half_turn, "a", (40, 61), as_stored=True)), upright[::-1, ::-1]
        )


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_mindspore_decodes_jpegs_as_pillow_does(subsampling, progressive):
    for quality in (30, 95):
        for size in ((61, 40), (17, 9), (1, 1), (16, 16)):
            picture = Image.fromarray(cv2.resize(RGB, size))
            content = file_content("JPEG", picture, quality=quality, subsampling=subsampling, progressive=progressive)
            np.testing.assert_array_equal(_by_mindspore(content), decode_image(content, "a"))


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "CMYK", {}),
        ("TIFF", "CMYK", {}),
        ("GIF", "P", {"save_all": True, "append_images": [Image.new("P", (61, 40))], "exif": b""}),
        ("PNG", "RGB", {"save_all": True, "append_images": [Image.new("RGB", (61, 40))]}),
        ("WEBP", "RGBA", {"save_all": True, "append_images": [Image.new("RGBA", (61, 40))]}),
        ("PNG", "1", {}),
        ("PNG", "LA", {}),
        ("BMP", "RGB", {}),
    ],
)
def test_modes_and_first_frames_equal_pillows_view(kind, mode, options):
    content = file_content(kind, Image.fromarray(RGB).convert(mode), **options)
    np.testing.assert_array_equal(decode_image(content, "a"), _pillow(content))
    np.testing.assert_array_equal(_by_mindspore(encode_record(content, "a")), _pillow(content))


@pytest.mark.parametrize("pixels", [RGB, RGB[..., 0]])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_keep_the_upper_eight(pixels, suffix):
    deep = pixels.astype(np.uint16) * 256 + 200
    content = cv2.imencode(suffix, deep[..., ::-1] if deep.ndim == 3 else deep)[1].tobytes()
    expected = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, 2)
    np.testing.assert_array_equal(decode_image(content, "a"), expected)
    np.testing.assert_array_equal(_by_mindspore(encode_record(content, "a")), expected)


def test_pixels_that_have_no_8_bit_meaning_are_refused():
    with pytest.raises(UserError, match="convert it to 8 bits"):
        decode_image(file_content("TIFF", Image.new("F", (5, 4), 0.5)), "a")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.98])
@pytest.mark.parametrize("read", [decode_image, encode_record])
def test_files_that_lack_pixels_are_refused(kind, share, read):
    content = file_content(kind, **({"quality": 95} if kind == "JPEG" else {}))
    with pytest.raises(UserError, match=r"image a\.bc .*ends early"):
        read(content[: int(len(content) * share)], "a.bc")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30}])
def test_a_jpeg_without_its_end_marker_is_read_with_a_warning(options, caplog):
    whole = file_content("JPEG", **options)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(decode_image(whole[:-2], "a"), _pillow(whole))
    assert "image a has no end marker" in caplog.text
    np.testing.assert_array_equal(_by_mindspore(encode_record(whole[:-2], "a")), _pillow(whole))


@pytest.mark.parametrize("trailer", [b"\0" * 99, b"\0\0\0\x18ftypmp42" + b"\xff\xda" * 9, b"MotionPhoto_Data\xff\xd8"])
def test_bytes_behind_the_end_of_a_jpeg_do_not_matter(trailer, caplog):
    content = file_content("JPEG")
    np.testing.assert_array_equal(decode_image(content + trailer, "a"), _pillow(content))
    np.testing.assert_array_equal(_by_mindspore(encode_record(content + trailer, "a")), _pillow(content))
    assert not caplog.text


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_image():
    content = file_content("JPEG")
    thumbnail = b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content  # an application segment
    whole = content[:2] + thumbnail + content[2:]
    assert encode_record(whole, "a") is whole
    with pytest.raises(UserError, match="ends early"):
        encode_record(whole[:-40], "a")


@pytest.mark.parametrize("content", [b"", b"text", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"<html></html>"])
def test_a_file_that_is_not_an_image_is_refused_by_name(content, tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    for read in (load_image, image_size, lambda path: encode_record(content, path)):
        with pytest.raises(UserError, match=f"image {re.escape(str(path))} is not an image"):
            read(path)
    for missing in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(UserError, match="check its path"):
            load_image(missing)


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded():
    header = b"P5 20000 20000 255\n"
    with pytest.raises(UserError, match="image a has more than 134,217,728 pixels: make it smaller"):
        decode_image(header, "a")
