from __future__ import annotations

import numpy as np

from coupalign.model.cross_attention import CrossAttention
from tests import equations
from tests.conftest import assert_close

TOKEN_MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def test_cross_attention_is_eq_7_and_8(random_cell):
    """The reference computes the rows of the words as well, and drops them."""
    cell = CrossAttention(image_dim=12, dim=8, num_pixels=9, heads=2)
    cross_attention, w, (pixels, words) = random_cell(cell, inputs=[(2, 9, 12), (2, 5, 8)])
    expected = equations.cross_attention(pixels, words, TOKEN_MASK, 2, w)
    assert_close(cross_attention(pixels, words, TOKEN_MASK), expected, relative=2e-6)
