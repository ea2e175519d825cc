"""Dropout masks look like independent draws, and depend only on step, layer and sample index."""

from __future__ import annotations

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn

from coupalign.model.dropout import Dropout, connect_dropout, draw

SHAPE = (64, 6, 500)


class Two(nn.Cell):
    """Two dropout layers with the same input."""

    def __init__(self, rate: float):
        super().__init__()
        self.first, self.second = Dropout(rate), Dropout(rate)

    def construct(self, x: Tensor):
        return self.first(x), self.second(x)


@pytest.fixture(scope="module")
def masks():
    """``masks(rate, seed, step, first, batch)``: kept elements of both layers of Two, (batch, elements) bool each."""
    cells = {}

    def make(rate: float, seed: int = 0, step: int = 0, first: int = 0, batch: int = SHAPE[0]):
        mindspore.set_context(mode=mindspore.GRAPH_MODE)
        if rate not in cells:
            cell = Two(rate).set_train()
            cells[rate] = cell, connect_dropout(cell, SHAPE[0])
        cell, draws = cells[rate]
        draws.set_data(draw(seed, step, draws, first))
        outputs = [each.asnumpy() for each in cell(Tensor(np.ones((batch, *SHAPE[1:]), np.float32)))]
        for output in outputs:
            assert set(np.unique(output)) == {0, np.float32(1 / (1 - round(rate * 65536) / 65536))}
        return [(output > 0).reshape(batch, -1) for output in outputs]

    return make


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_masks_are_those_of_independent_draws(masks, rate):
    """Sums and products of unrelated elements stay within 5 standard deviations of chance."""
    total = []
    for step in range(8):
        one, other = (mask - (1 - rate) for mask in masks(rate, step=step))
        after = masks(rate, step=step + 1)[0] - (1 - rate)
        reseeded = masks(rate, seed=1, step=step)[0] - (1 - rate)
        variance = rate * (1 - rate)
        total.append(one.sum())
        products = {
            "layers": one * other,
            "steps": one * after,
            "seeds": one * reseeded,
            "four": one[:32, :1500] * one[32:, :1500] * one[:32, 1500:] * one[32:, 1500:] / variance,
        }
        for distance in (1, 2, 8, 32):
            products[f"samples {distance} apart"] = one[distance:] * one[:-distance]
            products[f"places {distance} apart"] = one[:, distance:] * one[:, :-distance]
        for name, product in products.items():
            assert abs(product.sum()) < 5 * variance * product.size**0.5, (name, step)
        assert (np.abs(one.sum(1)) < 5 * (variance * one.shape[1]) ** 0.5).all()
        assert (np.abs(one.sum(0)) < 6.5 * (variance * one.shape[0]) ** 0.5).all()
    assert abs(sum(total)) < 5 * (8 * variance * one.size) ** 0.5


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.999])
def test_masks_are_those_of_integer_arithmetic(masks, rate):
    """Bit for bit, so a training may continue on another device."""
    low = 0xFFFF
    elements = np.random.default_rng(0).integers(2**31, size=SHAPE[1] * SHAPE[2], dtype=np.int32).astype(np.int64)
    draws = np.random.default_rng([3, 7]).integers(2**31, size=(5 + SHAPE[0], 2), dtype=np.int32).astype(np.int64)[5:]
    for layer, mask in enumerate(masks(rate, seed=3, step=7, first=5)):
        bits = draws[:, layer, None] ^ elements
        bits = (bits & low) * 0x7ED5 + (bits >> 16)
        bits ^= bits >> 11
        bits = (bits & low) * 0x6B01 + (bits >> 16)
        assert bits.max() < 2**31
        assert (mask == ((bits >> 8 & low) >= round(rate * 2**16))).all()


def test_a_part_of_the_batch_has_the_masks_of_the_whole(masks):
    """Steps in between change nothing."""
    whole = masks(0.5, step=5)
    for first in (0, 16, 48):
        masks(0.5, step=3)
        for mask, part in zip(whole, masks(0.5, step=5, first=first, batch=16), strict=True):
            assert (mask[first : first + 16] == part).all()


def test_training_without_draws_is_refused():
    cell = Dropout(0.5)
    x = Tensor(np.ones((2, 3), np.float32))
    assert (cell.set_train(False)(x).asnumpy() == 1).all()
    for mode in (mindspore.PYNATIVE_MODE, mindspore.GRAPH_MODE):
        mindspore.set_context(mode=mode)
        with pytest.raises(RuntimeError, match="call connect_dropout"):
            cell.set_train(True)(x)
