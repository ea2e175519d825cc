"""Which steps are computed in float16 and which in float32, shown by overflow and rounding."""

from __future__ import annotations

import mindspore
import numpy as np
import pytest
import torch
from mindspore import Tensor, nn, ops

from coupalign.config import load_config
from coupalign.model import build_model
from coupalign.model.bert import BertOutput
from coupalign.model.build import compute_in
from coupalign.model.dropout import connect_dropout, draw
from coupalign.model.layers import Gelu, ScaledDotProductAttention
from coupalign.model.sma import SentenceMaskAlignment
from coupalign.model.swin import SwinBlock
from coupalign.model.windows import WindowLayout
from tests.conftest import SMALLEST, assert_close
from tests.equations import sentence_mask_alignment, softmax


@pytest.fixture(autouse=True)
def _graph_mode(_mode):
    mindspore.set_context(mode=mindspore.GRAPH_MODE)


def half(random, *shape, scale=1.0):
    """Random values that float16 represents exactly: as a float32 array and as a float16 Tensor."""
    value = (random.standard_normal(shape) * scale).astype(np.float16)
    return value.astype(np.float64), Tensor(value)


def test_scores_of_attention_may_be_beyond_float16():
    random = np.random.default_rng(0)
    (query, q), (key, k), (value, v) = (half(random, 2, 5, 8, scale=scale) for scale in (600, 600, 1))
    scores = query @ key.swapaxes(1, 2) * 8**-0.5
    assert np.abs(scores).max() > 65504
    output = ScaledDotProductAttention(1)(q, k, v)
    assert output.dtype == mindspore.float16
    assert_close(output, softmax(scores) @ value, relative=2e-3)


def test_gelu_keeps_its_small_values():
    x = np.linspace(-5, 5, 801).astype(np.float16)
    expected = torch.nn.functional.gelu(torch.tensor(x.astype(np.float64))).numpy()
    output = Gelu()(Tensor(x)).asnumpy()
    assert output.dtype == np.float16
    np.testing.assert_allclose(output, expected, rtol=1e-3, atol=1e-7)


def test_sentence_mask_alignment_may_sum_beyond_float16():
    random = np.random.default_rng(0)
    cell = compute_in(SentenceMaskAlignment(query_dim=4, pixel_dim=4, dim=6), mindspore.float16).set_train(False)
    for each in cell.get_parameters():
        each.set_data(Tensor(random.standard_normal(each.shape).astype(np.float32) * 20))
    weights = {name: each.asnumpy().astype(np.float64) for name, each in cell.parameters_dict().items()}
    (queries, q), (pixels, p), (sentence, s) = (
        half(random, *shape, scale=20) for shape in ((2, 3, 4), (2, 4, 2, 2), (2, 6))
    )
    expected = sentence_mask_alignment(queries, pixels, sentence, 1.0, weights)
    assert np.abs(expected[0]).max() > 65504
    mask, weight, _ = cell(q, p, s)
    assert_close(mask, expected[0], relative=1e-5)
    assert_close(weight, expected[1], relative=1e-5)


def test_norms_take_values_whose_squares_are_beyond_float16():
    random = np.random.default_rng(0)
    cell = compute_in(BertOutput(in_dim=4, dim=6, dropout=0.0), mindspore.float16).set_train(False)
    (_, x), (residual, r) = half(random, 2, 3, 4), half(random, 2, 3, 6, scale=3e4)
    output = cell(x, r)
    assert output.dtype == mindspore.float32
    # The linear layer adds less than 1 to residuals of several thousand.
    centred = residual - residual.mean(-1, keepdims=True)
    assert_close(output, centred / residual.std(-1, keepdims=True), relative=1e-3)


class Squares(nn.Cell):
    """The sum of the squares of what a Swin block returns."""

    def __init__(self, block):
        super().__init__(auto_prefix=False)
        self.block = block

    def construct(self, x):
        return ops.square(self.block(x)).sum()


@pytest.mark.slow
def test_gradients_of_a_block():
    """float16 is near float32."""
    random = np.random.default_rng(0)
    x = Tensor(random.standard_normal((4, 64, 8)).astype(np.float32))
    found, weights = {}, None
    for kind in ("plain", "float16"):
        block = SwinBlock(dim=8, heads=2, layout=WindowLayout(8, 4), shifted=True, drop_path=0.5).set_train()
        parameters = block.trainable_params()
        weights = weights or [random.standard_normal(each.shape).astype(np.float32) / 3 for each in parameters]
        for each, weight in zip(parameters, weights, strict=True):
            each.set_data(Tensor(weight))
        if kind == "float16":
            compute_in(block, mindspore.float16)
        draws = connect_dropout(block, 4)
        draws.set_data(draw(0, 0, draws))
        loss, (by_input, by_parameters) = ops.value_and_grad(Squares(block), 0, tuple(parameters))(x)
        found[kind] = [each.asnumpy() for each in (loss, by_input, *by_parameters)]
    for plain, in_half in zip(*found.values(), strict=True):
        assert in_half.dtype == np.float32
        assert_close(in_half, plain, relative=1e-2)
    assert sum(np.abs(a - b).max() > 1e-5 for a, b in zip(found["plain"], found["float16"], strict=True)) > 10


@pytest.mark.slow
def test_a_model_in_float16_is_near_that_in_float32(random_cell):
    """The logits are near those of float32 but not equal: outputs of linear layers have eleven bits."""
    outputs = []
    for precision in ("fp32", "fp16"):
        config = load_config(overrides={**SMALLEST, "precision": precision})
        model, _, inputs = random_cell(build_model(config), inputs=[(2, 3, 64, 64)])
        words = np.arange(16).reshape(2, 8)
        outputs.append(model(*inputs, words, words >= 0))
        assert all(each.dtype == mindspore.float32 for each in model.cell.get_parameters())
    assert outputs[1].dtype == np.float32
    assert_close(outputs[1], outputs[0], relative=0.02)
    assert np.abs(outputs[1] - outputs[0]).max() > 1e-4 * np.abs(outputs[0]).max()
