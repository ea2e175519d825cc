from __future__ import annotations

import mindspore
import numpy as np
from mindspore import Tensor

from coupalign.model.wpa import WordPixelAlignment
from tests import equations
from tests.conftest import assert_close

PIXELS, WORDS = (3, 12, 6), (3, 5, 10)
# A full sentence, padding, and a single word.
TOKEN_MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])


def make(bidirectional: bool) -> WordPixelAlignment:
    return WordPixelAlignment(image_dim=6, text_dim=10, dim=8, bidirectional=bidirectional)


def test_both_directions_are_eq_1_to_5(random_cell):
    wpa, w, (pixels, words) = random_cell(make(True), inputs=[PIXELS, WORDS])
    found = wpa(pixels, words, TOKEN_MASK)
    expected = equations.word_pixel_alignment(pixels, words, TOKEN_MASK, w)
    for each, reference in zip(found, expected, strict=True):
        assert_close(each, reference, relative=2e-6)
    padding = TOKEN_MASK == 0
    assert np.array_equal(found[1][padding], words[padding].astype(np.float32)), "V' is zero on padding"
    assert (found[2].swapaxes(1, 2)[padding] == 0).all(), "no pixel looks at padding"


def test_one_direction_leaves_the_words(random_cell):
    wpa, w, (pixels, words) = random_cell(make(False), inputs=[PIXELS, WORDS])
    fused, same, over_words, over_pixels, to_pixels, to_words = wpa(pixels, words, TOKEN_MASK)
    expected = equations.word_pixel_alignment(pixels, words, TOKEN_MASK, w)
    assert_close(fused, expected[0], relative=2e-6)
    assert np.array_equal(same, words)
    assert_close(over_words, expected[2], relative=2e-6)
    assert_close(to_pixels, expected[4], relative=2e-6)
    assert over_pixels is None and to_words is None


def test_scores_beyond_half_precision(random_cell):
    """Scores of 1e5 and more, which float16 has no number for, still make a softmax."""
    wpa, w, arrays = random_cell(make(True), inputs=[PIXELS, WORDS])
    for parameter in wpa.cell.get_parameters():
        parameter.set_dtype(mindspore.float16)
    pixels, words = (np.round(x * 500).astype(np.float16) for x in arrays)
    found = wpa.cell(Tensor(pixels), Tensor(words), Tensor(TOKEN_MASK.astype(np.int32)))
    expected = equations.word_pixel_alignment(pixels.astype(float), words.astype(float), TOKEN_MASK, w)
    scores = equations.linear(pixels, w, "image_proj") @ equations.linear(words, w, "text_proj").swapaxes(1, 2)
    assert np.abs(scores).max() / 8**0.5 > 1e5 > 65504 > np.abs(expected[0]).max()
    for each, reference in zip(found[2:], expected[2:], strict=True):
        assert each.dtype == mindspore.float32
        assert_close(each, reference, relative=1e-2)
