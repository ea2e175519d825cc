"""Annotations as masks, against masks drawn by hand."""
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as rle

from src.data.masks import annotation_mask
from src.errors import UserError
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
@given(st.lists(st.tuples(st.integers(0, 24), st.integers(0, 14), st.integers(1, 5), st.integers(1, 5)), min_size=1,
                max_size=5))
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
    code = rle.encode(np.asfortranarray(expected.astype(np.uint8)))
    counts = code["counts"] if as_text is bytes else code["counts"].decode()
    np.testing.assert_array_equal(_mask({"size": [20, 30], "counts": counts}), expected)
    np.testing.assert_array_equal(_mask([{"size": [20, 30], "counts": counts}]), expected)


def test_a_list_of_run_lengths_is_united():
    first, second = _drawn((3, 1, 9, 19)), _drawn((5, 5, 25, 10))
    mask = _mask([{"size": [20, 30], "counts": _run_lengths(first)}, {"size": [20, 30], "counts": _run_lengths(second)}])
    np.testing.assert_array_equal(mask, first | second)


@pytest.mark.parametrize("short", [[], [4, 4], [0, 0, 20, 10]])
def test_polygons_with_fewer_than_three_points_are_left_out(short):
    # pycocotools reads four numbers as a box, which would fill 20 x 10 pixels.
    np.testing.assert_array_equal(_mask([short, rectangle(25, 15, 28, 18)]), _drawn((25, 15, 28, 18)))
    with pytest.raises(UserError, match="annotation 5 has no polygon with three points"):
        _mask([short])


@pytest.mark.parametrize(("segmentation", "message"), [
    (None, "no segmentation"), ("polygon", "no segmentation"), ([], "no polygon"),
    ({"size": [30, 20], "counts": [600]}, "30 x 20"), ({"counts": [600]}, "neither"), ([["a"] * 6], "neither"),
    ([[1, 2, 3, 4, 5, 6, 7]], "neither"), ([5], "neither"), ({"size": [20, 30], "counts": None}, "neither"),
])
def test_what_is_no_mask_is_refused_by_name(segmentation, message):
    with pytest.raises(UserError, match=f"annotation 5 .*{message}"):
        _mask(segmentation)
