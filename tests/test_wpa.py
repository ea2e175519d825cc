"""Word-Pixel Alignment against Eq 1, 2, 4 and 5 in NumPy float64."""

from __future__ import annotations

import mindspore
import numpy as np
from mindspore import Tensor

from coupalign.model.wpa import Alignment, WordPixelAlignment
from tests import equations
from tests.conftest import assert_close

PIXELS, WORDS = (3, 12, 6), (3, 5, 10)
# A full sentence, padding, and a single word.
TOKEN_MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])


def make(bidirectional: bool) -> WordPixelAlignment:
    return WordPixelAlignment(image_dim=6, text_dim=10, dim=8, bidirectional=bidirectional)


def test_both_directions_are_eq_1_to_5(random_cell):
    wpa, w, (pixels, words) = random_cell(make(True), inputs=[PIXELS, WORDS])
    new_pixels, new_words, alignment = wpa(pixels, words, TOKEN_MASK)
    expected = equations.word_pixel_alignment(pixels, words, TOKEN_MASK, w)
    for each, reference in zip((new_pixels, new_words, *alignment), expected, strict=True):
        assert_close(each, reference, relative=2e-6)
    padding = TOKEN_MASK == 0
    assert np.array_equal(new_words[padding], words[padding].astype(np.float32)), "V' is zero on padding"
    over_words = Alignment(*alignment).over_words
    assert (over_words.swapaxes(1, 2)[padding] == 0).all(), "padding gets no attention"


def test_the_optimised_order_is_the_printed_one(random_cell):
    wpa, _, arrays = random_cell(make(True), inputs=[PIXELS, WORDS])
    inputs = [Tensor(x.astype(np.float32)) for x in arrays] + [Tensor(TOKEN_MASK.astype(np.int32))]
    for found, printed in zip(wpa.cell.attend(*inputs), wpa.cell.as_printed(*inputs), strict=True):
        assert_close(found, printed, relative=2e-6)


def test_one_direction_leaves_the_words(random_cell):
    wpa, w, (pixels, words) = random_cell(make(False), inputs=[PIXELS, WORDS])
    new_pixels, same, values = wpa(pixels, words, TOKEN_MASK)
    alignment = Alignment(*values)
    expected = equations.word_pixel_alignment(pixels, words, TOKEN_MASK, w)
    assert_close(new_pixels, expected[0], relative=2e-6)
    assert np.array_equal(same, words)
    assert_close(alignment.over_words, expected[2], relative=2e-6)
    assert_close(alignment.image_gate, expected[4], relative=2e-6)
    assert alignment.over_pixels is None and alignment.text_gate is None


def test_scores_beyond_half_precision(random_cell):
    """Scores of 1e5 exceed float16, but not the float32 of the softmax."""
    wpa, w, arrays = random_cell(make(True), inputs=[PIXELS, WORDS])
    for parameter in wpa.cell.get_parameters():
        parameter.set_dtype(mindspore.float16)
    pixels, words = (np.round(x * 500).astype(np.float16) for x in arrays)
    *_, alignment = wpa.cell(Tensor(pixels), Tensor(words), Tensor(TOKEN_MASK.astype(np.int32)))
    expected = equations.word_pixel_alignment(pixels.astype(float), words.astype(float), TOKEN_MASK, w)
    scores = equations.linear(pixels, w, "image_proj") @ equations.linear(words, w, "text_proj").swapaxes(1, 2)
    assert np.abs(scores).max() / 8**0.5 > 1e5 > 65504 > np.abs(expected[0]).max()
    for each, reference in zip(alignment, expected[2:], strict=True):
        assert each.dtype == mindspore.float32
        assert_close(each, reference, relative=1e-2)
