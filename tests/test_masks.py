"""Masks of annotations and of files, against masks drawn by hand."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from coupalign.data.masks import annotation_mask, packed
from coupalign.errors import UserError
from tests.handmade_refer import rectangle


def _drawn(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((20, 30), bool)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = True
    return mask


def _mask(segmentation: object) -> np.ndarray:
    return annotation_mask({"id": 5, "segmentation": segmentation}, 20, 30)


def _run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's plain code: numbers of pixels down the columns, alternating, background first."""
    counts, current = [0], False
    for value in mask.T.ravel():
        if value != current:
            counts.append(0)
            current = value
        counts[-1] += 1
    return counts


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(0, 24), st.integers(0, 14), st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=5
    )
)
def test_polygons_are_united(boxes):
    boxes = [(left, top, left + width, top + height) for left, top, width, height in boxes]
    mask = _mask([rectangle(*box) for box in boxes])
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, _drawn(*boxes))


def test_a_triangle():
    mask = _mask([[0, 0, 20, 0, 0, 20]])
    y, x = np.mgrid[:20, :30] + 0.5
    off = mask != (x + y < 20)
    assert not off[np.abs(x + y - 20) > 1].any()
    assert mask.sum() == pytest.approx(200, abs=11)


def test_a_list_of_run_lengths_is_united():
    first, second = _drawn((3, 1, 9, 19)), _drawn((5, 5, 25, 10))
    mask = _mask(
        [{"size": [20, 30], "counts": _run_lengths(first)}, {"size": [20, 30], "counts": _run_lengths(second)}]
    )
    np.testing.assert_array_equal(mask, first | second)


@pytest.mark.parametrize("short", [[], [4, 4], [0, 0, 20, 10]])
def test_polygons_with_fewer_than_three_points_are_ignored(short):
    # pycocotools reads four numbers as a box, which would fill 20 x 10 pixels.
    np.testing.assert_array_equal(_mask([short, rectangle(25, 15, 28, 18)]), _drawn((25, 15, 28, 18)))
    with pytest.raises(UserError, match="annotation 5 covers no pixel of its image"):
        _mask([short])


def test_polygons_are_clipped_to_the_image():
    np.testing.assert_array_equal(_mask([rectangle(-10, 5, 7, 40)]), _drawn((0, 5, 7, 20)))
    np.testing.assert_array_equal(
        _mask([rectangle(20, -3, 31, 6), rectangle(500, 500, 600, 600)]), _drawn((20, 0, 30, 6))
    )
    with pytest.raises(UserError, match="annotation 5 covers no pixel of its image"):
        _mask([rectangle(40, 0, 50, 10)])


@settings(max_examples=200)
@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_compressed_run_lengths_are_read_as_pycocotools_reads_them(height, width, data):
    bits = data.draw(st.binary(min_size=height * width, max_size=height * width))
    mask = np.frombuffer(bits, np.uint8).reshape(height, width) % 2 == 1
    mask.flat[0] = True
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    for segmentation in (code, {**code, "counts": code["counts"].decode()}, [code]):
        np.testing.assert_array_equal(annotation_mask({"segmentation": segmentation}, height, width), mask)
    np.testing.assert_array_equal(
        annotation_mask(
            {"segmentation": packed({"size": [height, width], "counts": _run_lengths(mask)})}, height, width
        ),
        mask,
    )


@settings(max_examples=1000)
@given(
    st.one_of(
        st.text(),
        st.binary(),
        st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=40),
        st.lists(st.integers() | st.floats() | st.none(), max_size=8),
    )
)
def test_any_run_lengths_are_a_mask_or_a_clear_error(counts):
    try:
        mask = _mask({"size": [20, 30], "counts": counts})
    except UserError as error:
        assert "annotation 5" in str(error)
    else:
        assert mask.shape == (20, 30)


NUMBERS = st.floats() | st.integers() | st.floats(-100, 100)


@settings(max_examples=500)
@given(st.lists(st.lists(NUMBERS, max_size=12) | st.none() | st.text(max_size=3), max_size=4), st.booleans())
def test_any_polygons_are_a_mask_or_a_clear_error(polygons, pack):
    try:
        mask = _mask(packed(polygons) if pack else polygons)
    except UserError as error:
        assert "annotation 5" in str(error)
    else:
        assert mask.shape == (20, 30)


def test_packing_changes_nothing():
    polygons = [rectangle(2, 2, 12, 12), [1, 2], rectangle(8, 4, 20, 10)]
    np.testing.assert_array_equal(_mask(packed(polygons)), _mask(polygons))
    assert all(isinstance(part, array) for part in packed(polygons))


def _save(path, picture: Image.Image, **options) -> dict:
    picture.save(path, **options)
    return {"png": str(path)}


OBJECT = _drawn((3, 1, 9, 19))
GREY = Image.fromarray(OBJECT.astype(np.uint8) * 255)


def _with_palette(values: np.ndarray, *colours: tuple[int, int, int], transparent: int | None = None) -> Image.Image:
    picture = Image.fromarray(values.astype(np.uint8), "P")
    picture.putpalette([part for colour in colours for part in colour])
    if transparent is not None:
        picture.info["transparency"] = transparent
    return picture


BLACK, WHITE, RED = (0, 0, 0), (255, 255, 255), (128, 0, 0)


@pytest.mark.parametrize(
    "picture",
    [
        GREY.convert("1"),
        GREY,
        GREY.point(lambda value: value // 255),
        Image.fromarray(OBJECT.astype(np.uint16) * 256),
        Image.fromarray(OBJECT.astype(np.int32)),
        Image.merge("RGB", [GREY.point(lambda value: 0), GREY, GREY]),
        _with_palette(OBJECT, BLACK, BLACK),
        _with_palette(OBJECT * 2, BLACK, RED, WHITE),
        _with_palette(~OBJECT, WHITE, BLACK),
        GREY.convert("RGB").quantize(2),
        Image.merge("LA", [Image.new("L", (30, 20), 255), GREY]),
        Image.merge("RGBA", [*Image.new("RGB", (30, 20), RED).split(), GREY]),
        Image.merge("RGBA", [GREY, GREY, GREY, Image.new("L", (30, 20), 200)]),
        Image.merge("RGBA", [GREY, GREY, GREY, GREY]),
        _with_palette(OBJECT, WHITE, WHITE, transparent=0),
        _with_palette(OBJECT, BLACK, WHITE, transparent=0),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_mask_files_with_a_background_and_one_value(tmp_path, picture, suffix):
    if suffix == "tif" and picture.mode == "P":
        pytest.skip("a TIFF keeps no order of a palette")
    np.testing.assert_array_equal(_mask(_save(tmp_path / f"mask.{suffix}", picture)), OBJECT)


@pytest.mark.parametrize("quality", [40, 95])
@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_lossy_masks_are_thresholded_at_half_grey(tmp_path, quality, kind, mode):
    segmentation = _save(tmp_path / "mask", GREY.convert(mode), format=kind, quality=quality)
    np.testing.assert_array_equal(_mask(segmentation), OBJECT)


@pytest.mark.parametrize("orientation", [3, 6])
def test_mask_files_are_turned_upright_like_images(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = {3: GREY.rotate(180), 6: GREY.rotate(90, expand=True)}[orientation]
    for suffix in ("png", "tif"):
        np.testing.assert_array_equal(_mask(_save(tmp_path / f"mask.{suffix}", stored, exif=exif)), OBJECT)


BORDER = OBJECT * 15 + _drawn((9, 1, 11, 19)) * 255  # as VOC marks the border of an object


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (_with_palette(BORDER, BLACK, *[RED] * 255), "2 values besides the background .15, 255.*border"),
        (Image.fromarray(BORDER.astype(np.uint8)), "2 values"),
        (Image.fromarray((OBJECT + _drawn((20, 1, 25, 9)) * 2).astype(np.uint8)), "other objects"),
        (_with_palette(OBJECT, RED, WHITE), r"entry 0 is \(128, 0, 0\) instead of black"),
        (_with_palette(~OBJECT, WHITE, RED), "entry 0 is"),
        (Image.merge("RGB", [GREY, GREY, GREY.point(lambda value: 255 - value)]), "2 values.*#0000ff, #ffff00"),
        (Image.merge("LA", [GREY, GREY.point(lambda value: 255 - value)]), "by its transparency"),
        (_with_palette(OBJECT, WHITE, BLACK, transparent=0), "by its transparency"),
        (_with_palette(OBJECT, BLACK, WHITE, transparent=1), "by its transparency"),
        (GREY.convert("CMYK"), "CMYK"),
    ],
)
def test_mask_files_that_could_be_read_in_several_ways_are_refused(tmp_path, picture, reason):
    with pytest.raises(UserError, match=rf"annotation 5: the mask .*mask .*{reason}.*Save it as a greyscale PNG"):
        _mask(_save(tmp_path / "mask", picture, format="TIFF" if picture.mode == "CMYK" else "PNG"))


def test_a_mask_that_may_be_inverted_is_read_with_a_warning(tmp_path, caplog):
    inverted = _save(tmp_path / "mask.png", GREY.point(lambda value: 255 - value))
    np.testing.assert_array_equal(_mask(inverted), ~OBJECT)
    assert "mask.png" in caplog.text and "invert" in caplog.text
    caplog.clear()
    _mask(_save(tmp_path / "mask.png", GREY))
    assert not caplog.text


@pytest.mark.parametrize("values", [BORDER, OBJECT, OBJECT * 100, OBJECT * 255 + _drawn((20, 1, 29, 19)) * 3])
def test_lossy_masks_that_are_not_black_and_white_are_refused(tmp_path, values):
    picture = Image.fromarray(values.astype(np.uint8)).resize((90, 60), Image.Resampling.NEAREST)
    segmentation = _save(tmp_path / "mask.jpg", picture, quality=90)
    with pytest.raises(UserError, match="not black and white"):
        annotation_mask({"id": 5, "segmentation": segmentation}, 60, 90)


def test_mask_files_of_another_size_missing_or_damaged_are_refused_by_name(tmp_path):
    path = tmp_path / "mask.png"
    with pytest.raises(UserError, match=r"annotation 5: the mask .*mask\.png cannot be read"):
        _mask({"png": str(path)})
    Image.new("L", (20, 30), 1).save(path)
    with pytest.raises(UserError, match=r"mask\.png is 30 x 20 pixels \(height x width\), its image 20 x 30"):
        _mask({"png": str(path)})
    whole = path.read_bytes()
    for content in (b"", b"no image", whole[:40], whole[:60] + b"\0" * 9 + whole[69:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"mask\.png is not an image"):
            _mask({"png": str(path)})


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "no segmentation"),
        ([], "covers no pixel"),
        ({}, "size and counts"),
        ({"size": [30, 20], "counts": [600]}, "size .30, 20. for an image of 20 x 30"),
        ([["a"] * 6], "polygons"),
        ([[1, 2, 3, 4, 5, 6, 7]], "odd number"),
        ([2, 4, 33, 4, 33, 35], "a mask a list of polygons"),  # flat
        ([[2, 4], [9, 4], [9, 15]], "LabelMe.*polygons in pixels"),
        ([[[2, 4], [9, 4], [9, 15]]], "OpenCV.*polygons in pixels"),
        ([[0.1, 0.2, 0.9, 0.2, 0.9, 1]], "multiply them by the image's width and height"),
        ([[0, 0, 9, 0, float("nan"), 9]], "far outside"),
        ([[0, 0, 9, 0, 10**400, 9]], "invalid"),
        ([[0, 0, 9e4, 9e4] * 4], "too long"),
        ({"size": [20, 30], "counts": [601]}, "do not add up"),
        ({"size": [20, 30], "counts": [2**63]}, "invalid"),
        ({"size": [20, 30], "counts": "P"}, "damaged"),
        ({"size": [20, 30], "counts": "\u00e9"}, "invalid"),
    ],
)
def test_invalid_masks_are_refused_by_name_with_the_accepted_forms(segmentation, message):
    with pytest.raises(UserError, match=f"annotation 5 .*{message}") as caught:
        _mask(packed(segmentation))
    assert "\n" not in str(caught.value)


def test_an_image_too_large_to_draw_on_is_refused():
    with pytest.raises(UserError, match="annotation 5: its image has more than"):
        annotation_mask({"id": 5, "segmentation": [rectangle(0, 0, 9, 9)]}, 10**6, 10**6)
