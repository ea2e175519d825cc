"""Sentence-Mask Alignment against Eq 11 and 12 in NumPy float64."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor, ops
from mindspore import grad as gradient

from coupalign.model.sma import SentenceMaskAlignment, l2_normalize
from tests import equations
from tests.conftest import assert_close

SHAPES = [(2, 7, 6), (2, 5, 4, 3), (2, 8)]


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_alignment_is_eq_11_and_12(random_cell, temperature):
    """The mask, made without the N masks, is their weighted sum."""
    cell = SentenceMaskAlignment(query_dim=6, pixel_dim=5, dim=8, temperature=temperature)
    sma, w, (queries, pixels, sentence) = random_cell(cell, inputs=SHAPES)
    mask, weights, embeddings = sma(queries, pixels, sentence)
    masks = cell.masks(Tensor(embeddings), Tensor(pixels.astype(np.float32)))
    expected = equations.sentence_mask_alignment(queries, pixels, sentence, temperature, w)
    for found, reference in zip((mask, weights, masks), expected, strict=True):
        assert_close(found, reference, relative=5e-6)
    assert_close(weights.sum(-1), np.ones(2), relative=1e-6)
    assert_close((masks.asnumpy() * weights[:, :, None, None]).sum(1), mask, relative=5e-6)


def test_the_optimised_order_is_the_printed_one(random_cell):
    cell = SentenceMaskAlignment(query_dim=6, pixel_dim=5, dim=8, temperature=0.5)
    _, _, arrays = random_cell(cell, inputs=SHAPES)
    queries, pixels, sentence = (Tensor(x.astype(np.float32)) for x in arrays)
    mask, weights, embeddings = cell(queries, pixels, sentence)
    found = mask, weights, cell.masks(embeddings, pixels)
    for each, printed in zip(found, cell.as_printed(queries, pixels, sentence), strict=True):
        assert_close(each, printed, relative=2e-6)


def test_sentence_of_zeros(random_cell):
    """Weights are equal, and gradients are finite."""
    cell = SentenceMaskAlignment(query_dim=6, pixel_dim=5, dim=8)
    sma, _, (queries, pixels, sentence) = random_cell(cell, inputs=SHAPES)
    assert_close(sma(queries, pixels, sentence * 0)[1], np.full((2, 7), 1 / 7), relative=1e-6)

    def length(x):
        return ops.reduce_sum(l2_normalize(x) ** 2)

    assert np.isfinite(gradient(length)(Tensor(np.zeros((2, 8), np.float32))).asnumpy()).all()
