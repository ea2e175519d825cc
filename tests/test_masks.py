"""Annotations as masks, against masks drawn by hand."""

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


@settings(max_examples=50, deadline=None)
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


def test_pixels_where_two_and_three_polygons_overlap_stay():
    boxes = [(2, 2, 12, 12), (8, 4, 20, 10), (8, 6, 12, 18)]
    mask = _mask([rectangle(*box) for box in boxes])
    assert mask[6:10, 8:12].all()
    np.testing.assert_array_equal(mask, _drawn(*boxes))


def test_a_triangle():
    mask = _mask([[0, 0, 20, 0, 0, 20]])
    y, x = np.mgrid[:20, :30] + 0.5
    off = mask != (x + y < 20)
    assert not off[np.abs(x + y - 20) > 1].any()
    assert mask.sum() == pytest.approx(200, abs=11)


def test_crowd_run_lengths():
    expected = _drawn((3, 1, 9, 19), (20, 0, 30, 5))
    np.testing.assert_array_equal(_mask({"size": [20, 30], "counts": _run_lengths(expected)}), expected)


@pytest.mark.parametrize("as_text", [str, bytes])
def test_compressed_run_lengths(as_text):
    expected = _drawn((3, 1, 9, 19), (20, 0, 30, 5))
    code = coco.encode(np.asfortranarray(expected.astype(np.uint8)))
    counts = code["counts"] if as_text is bytes else code["counts"].decode()
    np.testing.assert_array_equal(_mask({"size": [20, 30], "counts": counts}), expected)
    np.testing.assert_array_equal(_mask([{"size": [20, 30], "counts": counts}]), expected)


def test_a_list_of_run_lengths_is_united():
    first, second = _drawn((3, 1, 9, 19)), _drawn((5, 5, 25, 10))
    mask = _mask(
        [{"size": [20, 30], "counts": _run_lengths(first)}, {"size": [20, 30], "counts": _run_lengths(second)}]
    )
    np.testing.assert_array_equal(mask, first | second)


@pytest.mark.parametrize("short", [[], [4, 4], [0, 0, 20, 10]])
def test_polygons_with_fewer_than_three_points_are_left_out(short):
    # pycocotools reads four numbers as a box, which would fill 20 x 10 pixels.
    np.testing.assert_array_equal(_mask([short, rectangle(25, 15, 28, 18)]), _drawn((25, 15, 28, 18)))
    with pytest.raises(UserError, match="annotation 5 covers no pixel of its image"):
        _mask([short])


def test_polygons_that_leave_the_image_are_cut_off():
    np.testing.assert_array_equal(_mask([rectangle(-10, 5, 7, 40)]), _drawn((0, 5, 7, 20)))
    np.testing.assert_array_equal(
        _mask([rectangle(20, -3, 31, 6), rectangle(500, 500, 600, 600)]), _drawn((20, 0, 30, 6))
    )
    with pytest.raises(UserError, match="annotation 5 covers no pixel of its image"):
        _mask([rectangle(40, 0, 50, 10)])


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_compressed_run_lengths_are_read_as_pycocotools_reads_them(height, width, data):
    bits = data.draw(st.binary(min_size=height * width, max_size=height * width))
    mask = np.frombuffer(bits, np.uint8).reshape(height, width) % 2 == 1
    mask.flat[0] = True
    segmentation = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    np.testing.assert_array_equal(annotation_mask({"segmentation": segmentation}, height, width), mask)
    np.testing.assert_array_equal(
        annotation_mask(
            {"segmentation": packed({"size": [height, width], "counts": _run_lengths(mask)})}, height, width
        ),
        mask,
    )


@settings(max_examples=1000, deadline=None)
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


@settings(max_examples=500, deadline=None)
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


def _png(path, mode: str, expected: np.ndarray, value, palette=None) -> dict:
    image = Image.new(mode, (30, 20))
    pixels = image.load()
    for y, x in np.argwhere(expected):
        pixels[int(x), int(y)] = value
    if palette:
        image.putpalette(palette)
    image.save(path)
    return {"png": str(path)}


@pytest.mark.parametrize(
    ("mode", "value", "palette"),
    [
        ("1", 1, None),
        ("L", 1, None),
        ("L", 255, None),
        ("I;16", 256, None),
        ("RGB", (0, 0, 1), None),
        ("P", 1, [0, 0, 0, 0, 0, 0]),
        ("P", 2, [9, 9, 9, 128, 0, 0, 0, 0, 0]),
    ],
)
def test_in_a_png_all_that_is_not_0_belongs_to_the_mask(tmp_path, mode, value, palette):
    expected = _drawn((3, 1, 9, 19))
    np.testing.assert_array_equal(_mask(_png(tmp_path / "mask.png", mode, expected, value, palette)), expected)


@pytest.mark.parametrize(("mode", "value"), [("LA", (5, 255)), ("RGBA", (5, 0, 0, 0))])
def test_transparency_is_no_mask(tmp_path, mode, value):
    expected = _drawn((3, 1, 9, 19))
    segmentation = _png(tmp_path / "mask.png", mode, expected, value)
    with Image.open(tmp_path / "mask.png") as image:
        image.putalpha(200)
        image.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(_mask(segmentation), expected)


def test_a_png_of_another_size_missing_or_damaged_is_refused_by_name(tmp_path):
    path = tmp_path / "mask.png"
    with pytest.raises(UserError, match=r"annotation 5: the mask .*mask\.png is missing"):
        _mask({"png": str(path)})
    Image.new("L", (20, 30), 1).save(path)
    with pytest.raises(UserError, match=r"mask\.png is 30 x 20 pixels \(height x width\), its image 20 x 30"):
        _mask({"png": str(path)})
    whole = path.read_bytes()
    for content in (b"", b"no image", whole[:40], whole[:60] + b"\0" * 9 + whole[69:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"mask\.png is no image, or a damaged one"):
            _mask({"png": str(path)})


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "no segmentation"),
        ("polygon", "no segmentation"),
        ([], "covers no pixel"),
        ({}, "neither"),
        ({"size": [30, 20], "counts": [600]}, "30 x 20"),
        ({"counts": [600]}, "neither"),
        ([["a"] * 6], "neither"),
        ([[1, 2, 3, 4, 5, 6, 7]], "odd number"),
        ([5], "neither"),
        ([[0, 0, 9, 0, float("nan"), 9]], "nowhere near"),
        ([[0, 0, 9, 0, float("inf"), 9]], "nowhere near"),
        ([[0, 0, 9, 0, -1e9, 9]], "nowhere near"),
        ([[0, 0, 9, 0, 10**400, 9]], "neither"),
        ([[0, 0, 9e4, 9e4] * 4], "longer than any object's"),
        ({"size": [20, 30], "counts": [601]}, "do not fill"),
        ({"size": [20, 30], "counts": [599]}, "do not fill"),
        ({"size": [20, 30], "counts": [700, -100]}, "do not fill"),
        ({"size": [20, 30], "counts": [2**62] * 4}, "do not fill"),
        ({"size": [20, 30], "counts": [2**63]}, "neither"),
        ({"size": [20, 30], "counts": "P"}, "damaged"),
        ({"size": [20, 30], "counts": "o" * 9}, "damaged"),
        ({"size": 20, "counts": [600]}, "neither"),
        ({"size": [20, 30], "counts": ""}, "damaged"),
        ({"size": [20, 30], "counts": "é"}, "neither"),
        ({"size": [20, 30], "counts": None}, "neither"),
    ],
)
def test_what_is_no_mask_is_refused_by_name(segmentation, message):
    with pytest.raises(UserError, match=f"annotation 5 .*{message}"):
        _mask(segmentation)


def test_an_image_too_large_to_draw_on_is_refused():
    with pytest.raises(UserError, match="annotation 5 is on an image of 1000000 x 1000000 pixels"):
        annotation_mask({"id": 5, "segmentation": [rectangle(0, 0, 9, 9)]}, 10**6, 10**6)
