"""Everything between and after the encoders against the paper's equations in NumPy float64, and against PyTorch."""

from __future__ import annotations

import mindspore
import numpy as np
import pytest
import torch
from mindspore import ParameterTuple, Tensor, ops

from coupalign.model.batch_norm import batch_norm
from coupalign.model.cross_attention import CrossAttention
from coupalign.model.gate import Gate
from coupalign.model.mask_generator import MaskGenerator
from coupalign.model.positions import grid_points, sine_encoding
from coupalign.model.resize import Upsample
from coupalign.model.seg_head import DoubleConv, SegHead
from coupalign.model.sma import SentenceMaskAlignment, l2_normalize
from coupalign.model.wpa import Alignment, WordPixelAlignment
from tests import equations
from tests.conftest import assert_close

PIXELS, WORDS = (3, 12, 6), (3, 5, 10)
# A full sentence, padding, and a single word.
TOKEN_MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
SMA_SHAPES = [(2, 7, 6), (2, 5, 4, 3), (2, 8)]  # queries, pixels, sentence


def make(bidirectional: bool) -> WordPixelAlignment:
    return WordPixelAlignment(image_dim=6, text_dim=10, dim=8, bidirectional=bidirectional)


def test_gate_is_eq_6(random_cell):
    gate, w, f = random_cell(Gate(8), inputs=(2, 5, 8))
    for each, expected in zip(gate(f), equations.gate(f, w), strict=True):
        assert_close(each, expected, relative=5e-6)


def test_wpa_in_both_directions_is_eq_1_to_5(random_cell):
    wpa, w, (pixels, words) = random_cell(make(True), inputs=[PIXELS, WORDS])
    new_pixels, new_words, alignment = wpa(pixels, words, TOKEN_MASK)
    expected = equations.word_pixel_alignment(pixels, words, TOKEN_MASK, w)
    for each, reference in zip((new_pixels, new_words, *alignment), expected, strict=True):
        assert_close(each, reference, relative=5e-6)
    padding = TOKEN_MASK == 0
    assert np.array_equal(new_words[padding], words[padding].astype(np.float32)), "V' is zero on padding"
    over_words = Alignment(*alignment).over_words
    assert (over_words.swapaxes(1, 2)[padding] == 0).all(), "padding gets no attention"
    inputs = (Tensor(pixels.astype(np.float32)), Tensor(words.astype(np.float32)), Tensor(TOKEN_MASK.astype(np.int32)))
    for found, printed in zip(wpa.cell.attend(*inputs), wpa.cell.as_printed(*inputs), strict=True):
        assert_close(found, printed, relative=5e-6)


def test_wpa_in_one_direction_leaves_the_words(random_cell):
    wpa, w, (pixels, words) = random_cell(make(False), inputs=[PIXELS, WORDS])
    new_pixels, same, values = wpa(pixels, words, TOKEN_MASK)
    alignment = Alignment(*values)
    expected = equations.word_pixel_alignment(pixels, words, TOKEN_MASK, w)
    assert_close(new_pixels, expected[0], relative=5e-6)
    assert np.array_equal(same, words)
    assert_close(alignment.over_words, expected[2], relative=5e-6)
    assert_close(alignment.image_gate, expected[4], relative=5e-6)
    assert alignment.over_pixels is None and alignment.text_gate is None


def test_normalised_wpa(random_cell):
    """Words and pixels have much in common, which must not hide how they differ."""
    wpa, w, (pixels, words) = random_cell(
        WordPixelAlignment(image_dim=6, text_dim=10, dim=8, normed=True), inputs=[PIXELS, WORDS]
    )
    pixels, words = (np.round(x * 1024) / 1024 + 64 for x in (pixels, words))
    mask = TOKEN_MASK[:2]
    new_pixels, new_words, alignment = wpa(pixels[:2], words[:2], mask)
    expected = equations.word_pixel_alignment(pixels[:2], words[:2], mask, w, normed=True)
    for each, reference in zip((new_pixels, new_words, *alignment), expected, strict=True):
        assert_close(each, reference, relative=1e-4)
    assert alignment[0].std(1).max() > 0.1


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


def test_cross_attention_is_eq_7_and_8(random_cell):
    """The reference computes the rows of the words as well, and drops them."""
    cell = CrossAttention(image_dim=12, dim=8, num_pixels=9, heads=2)
    cross_attention, w, (pixels, words) = random_cell(cell, inputs=[(2, 9, 12), (2, 5, 8)])
    expected = equations.cross_attention(pixels, words, TOKEN_MASK[:2], 2, w)
    assert_close(cross_attention(pixels, words, TOKEN_MASK[:2]), expected, relative=5e-6)


def test_mask_generator_is_eq_9(random_cell):
    cell = MaskGenerator(image_dim=12, dim=8, num_queries=5, layers=3, heads=2, ffn_dim=16)
    generator, w, pixels = random_cell(cell, inputs=(2, 9, 12))
    expected = equations.mask_generator(pixels, layers=3, heads=2, w=w)
    assert_close(generator(pixels), expected, relative=1e-5)


def test_normalised_cross_attention(random_cell):
    cell = CrossAttention(image_dim=12, dim=8, num_pixels=9, heads=2, normed=True)
    cross_attention, w, (pixels, words) = random_cell(cell, inputs=[(2, 9, 12), (2, 5, 8)])
    expected = equations.cross_attention(pixels, words, TOKEN_MASK[:2], 2, w)
    assert_close(cross_attention(pixels, words, TOKEN_MASK[:2]), expected, relative=5e-6)


def test_anchored_mask_generator(random_cell):
    cell = MaskGenerator(image_dim=12, dim=8, num_queries=5, layers=2, heads=2, ffn_dim=16, anchored=3)
    generator, w, pixels = random_cell(cell, inputs=(2, 9, 12))
    places = sine_encoding(grid_points(3), 8, 2).astype(np.float64)
    expected = equations.mask_generator(pixels, layers=2, heads=2, w=w, places=places)
    assert_close(generator(pixels), expected, relative=1e-5)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_upsample_is_torchs_bilinear(factor, size):
    x = np.random.default_rng(0).standard_normal((2, 3, size, size)).astype(np.float32)
    assert_close(
        Upsample(size=size, factor=factor)(Tensor(x)), equations.upsample(x.astype(np.float64), factor), relative=1e-6
    )


def test_seg_head_is_eq_10(random_cell):
    cell = SegHead(image_dims=[3, 4, 6, 8], dim=5, size=16, statistics="local")
    shapes = [(2, 8, 2, 2), (2, 3, 16, 16), (2, 4, 8, 8), (2, 6, 4, 4), (2, 8, 2, 2)]
    head, w, (fused, *stages) = random_cell(cell, inputs=shapes)
    found = head.cell(*(Tensor(x.astype(np.float32)) for x in [fused]), [Tensor(x.astype(np.float32)) for x in stages])
    assert_close(found, equations.seg_head(fused, stages, w), relative=1e-5)


def test_training_normalises_by_the_batch_and_remembers_it(random_cell):
    double, w, x = random_cell(DoubleConv(in_dim=3, out_dim=4, statistics="local"), inputs=(2, 3, 5, 5))
    y, statistics = x, {}
    for k in (1, 2):
        y = torch.from_numpy(np.maximum(equations.convolution(y, w, f"conv{k}"), 0))
        names = [f"bn{k}.{part}" for part in ("moving_mean", "moving_variance", "gamma", "beta")]
        values = [torch.from_numpy(w[name].copy()) for name in names]
        y = torch.nn.functional.batch_norm(y, *values, training=True, momentum=0.1).numpy()
        statistics |= dict(zip(names[:2], values))  # updated in place
    assert_close(double.cell.set_train(True)(Tensor(x.astype(np.float32))), y, relative=1e-5)
    parameters = double.cell.parameters_dict()
    for name, value in statistics.items():
        assert_close(parameters[name], value.numpy(), relative=1e-5)


def test_frozen_batch_norm_trains_its_scale_and_shift_alone():
    random = np.random.default_rng(0)
    x, weight = random.standard_normal((2, 4, 3, 5, 7)).astype(np.float32)
    values = (0.5 + random.random((4, 3))).astype(np.float32)
    cell = batch_norm(3, "frozen").set_train()
    parameters = (cell.gamma, cell.beta, cell.moving_mean, cell.moving_variance)
    for parameter, value in zip(parameters, values):
        parameter.set_data(Tensor(value))
    gradient = ops.grad(lambda x: (cell(x) * Tensor(weight)).sum(), 0, ParameterTuple(parameters[:2]))
    dx, (dgamma, dbeta) = gradient(Tensor(x))
    norm = torch.nn.BatchNorm2d(3).double().eval()
    names = ("weight", "bias", "running_mean", "running_var")
    norm.load_state_dict(dict(zip(names, torch.from_numpy(values).double())), strict=False)
    given = torch.from_numpy(x).double().requires_grad_()
    y = norm(given)
    (y * torch.from_numpy(weight)).sum().backward()
    for ours, theirs in ((cell(Tensor(x)), y), (dx, given.grad), (dgamma, norm.weight.grad), (dbeta, norm.bias.grad)):
        assert_close(ours, theirs.detach().numpy(), relative=1e-5)
    assert (cell.moving_mean.asnumpy() == values[2]).all() and (cell.moving_variance.asnumpy() == values[3]).all()


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_sma_is_eq_11_and_12(random_cell, temperature):
    """The mask, made without the N masks, is their weighted sum."""
    cell = SentenceMaskAlignment(query_dim=6, pixel_dim=5, dim=8, temperature=temperature)
    sma, w, (queries, pixels, sentence) = random_cell(cell, inputs=SMA_SHAPES)
    mask, weights, embeddings = sma(queries, pixels, sentence)
    tensors = [Tensor(x.astype(np.float32)) for x in (queries, pixels, sentence)]
    masks = cell.masks(Tensor(embeddings), tensors[1])
    expected = equations.sentence_mask_alignment(queries, pixels, sentence, temperature, w)
    for found, reference, printed in zip((mask, weights, masks), expected, cell.as_printed(*tensors), strict=True):
        assert_close(found, reference, relative=5e-6)
        assert_close(found, printed, relative=5e-6)
    assert_close(weights.sum(-1), np.ones(2), relative=1e-6)
    assert_close((masks.asnumpy() * weights[:, :, None, None]).sum(1), mask, relative=5e-6)


def test_sentence_of_zeros(random_cell):
    """Weights are equal, and gradients are finite."""
    cell = SentenceMaskAlignment(query_dim=6, pixel_dim=5, dim=8)
    sma, _, (queries, pixels, sentence) = random_cell(cell, inputs=SMA_SHAPES)
    assert_close(sma(queries, pixels, sentence * 0)[1], np.full((2, 7), 1 / 7), relative=1e-6)

    gradient = mindspore.grad(lambda x: ops.reduce_sum(l2_normalize(x) ** 2))
    assert np.isfinite(gradient(Tensor(np.zeros((2, 8), np.float32))).asnumpy()).all()
