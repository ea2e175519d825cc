from __future__ import annotations

from coupalign.model.mask_generator import MaskGenerator
from tests import equations
from tests.conftest import assert_close


def test_mask_generator_is_eq_9(random_cell):
    cell = MaskGenerator(image_dim=12, dim=8, num_queries=5, layers=3, heads=2, ffn_dim=16)
    generator, w, pixels = random_cell(cell, inputs=(2, 9, 12))
    expected = equations.mask_generator(pixels, layers=3, heads=2, w=w)
    assert_close(generator(pixels), expected, relative=1e-5)
