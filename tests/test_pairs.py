"""The auxiliary loss in graph mode, stripe by stripe, against all pairs in PyTorch in float64: values and gradients."""

from __future__ import annotations

import itertools
import math

import mindspore
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mindspore import Tensor, nn

from coupalign.loss import PixelContrastiveLoss
from coupalign.loss.pairs import _stripe_length
from tests.conftest import assert_close
from tests.test_losses import contrastive_loss_in_torch, in_torch

HEIGHT, WIDTH = 9, 16
PIXELS = HEIGHT * WIDTH
STRIPE = _stripe_length(12, PIXELS)
# Pixels of the referent, one number an image of a batch: no stripe, one or many, just full and just begun, on either
# side.
COUNTS = (
    0,
    1,
    STRIPE - 1,
    STRIPE,
    STRIPE + 1,
    2 * STRIPE,
    PIXELS // 2,
    PIXELS // 2 + 1,
    PIXELS - STRIPE - 1,
    PIXELS - STRIPE,
    PIXELS - 1,
    PIXELS,
)
DEFAULTS = {"temperature": 0.1, "normalize": True, "log": True}
OPTIONS = [
    {},
    {"log": False},
    {"temperature": 0.03},  # too low for exponentials of the scores themselves
    {"temperature": 1.0, "normalize": False},
    {"temperature": 1.0, "normalize": False, "log": False},
]


@pytest.fixture(autouse=True, scope="module")
def _graph_mode(_mode_of_file):
    mindspore.set_context(mode=mindspore.GRAPH_MODE)


def masks(counts: tuple[int, ...], seed: int) -> np.ndarray:
    """(B, HEIGHT, WIDTH) bool with so many pixels each, scattered."""
    random = np.random.default_rng(seed)
    return np.stack([random.permutation(PIXELS).reshape(HEIGHT, WIDTH) < count for count in counts])


def gradient_of(loss: nn.Cell):
    """A compiled function of features and masks, NumPy arrays, that gives loss and gradient."""
    both = mindspore.value_and_grad(loss)

    def run(features: np.ndarray, mask: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = both(Tensor(features), Tensor(mask.astype(np.float32)))
        return float(value), gradient.asnumpy()

    return run


def expected(features: np.ndarray, mask: np.ndarray, **options) -> tuple[float, np.ndarray]:
    return in_torch(contrastive_loss_in_torch, features, mask, *{**DEFAULTS, **options}.values())


def test_counts_are_at_the_edges_of_stripes():
    assert len(COUNTS) == 12 and 1 < STRIPE - 1 and 2 * STRIPE < PIXELS // 2 < PIXELS - STRIPE - 1


def test_no_stripe_leaves_its_map():
    """The smaller side has at most half of the pixels, and its last stripe is filled up with pixels of the other."""
    for batch, length in itertools.product((1, 2, 3, 5, 6, 64), (*range(1, 1500), 12544)):
        height = _stripe_length(batch, length)
        assert 1 <= height and math.ceil(length // 2 / height) * height <= length


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_stripes_of_every_length(options):
    """One image at a time in the reference, so that no image hides behind another."""
    features = np.random.default_rng(1).standard_normal((len(COUNTS), 6, HEIGHT, WIDTH)).astype(np.float32)
    mask = masks(COUNTS, seed=2)
    value, gradient = gradient_of(PixelContrastiveLoss(**options))(features, mask)
    each = [expected(x[None], m[None], **options) for x, m in zip(features, mask)]
    assert_close(value, np.mean([loss for loss, _ in each]), relative=1e-5)
    for count, found, (_, right) in zip(COUNTS, gradient * len(COUNTS), each):
        if count in (0, PIXELS):
            assert (found == 0).all()
        else:
            assert_close(found, right[0], relative=2e-5)


@pytest.mark.parametrize("options", OPTIONS[:3:2], ids=str)
def test_images_of_a_batch_leave_each_other_alone(options):
    """An image's gradient is the same however many stripes the others of its batch need, and whether there are any."""
    run = gradient_of(PixelContrastiveLoss(**options))
    features = np.random.default_rng(9).standard_normal((3, 6, HEIGHT, WIDTH)).astype(np.float32)
    for counts in ((0, 0, PIXELS), (5, PIXELS, 0), (5, PIXELS // 2, PIXELS - 1), (0, PIXELS // 2, 5)):
        value, gradient = run(features, masks(counts, seed=10))
        right = expected(features, masks(counts, seed=10), **options)
        assert abs(value - right[0]) <= 1e-5 * right[0]
        for found, correct in zip(gradient, right[1]):
            assert np.abs(found - correct).max() <= 2e-5 * np.abs(correct).max()


@pytest.fixture(scope="module")
def losses():
    """Compiled once for all random masks."""
    return [(options, gradient_of(PixelContrastiveLoss(**options))) for options in ({}, {"temperature": 0.02})]


@settings(max_examples=40, deadline=None)
@given(mask=arrays(bool, (2, 5, 7)), seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_any_mask(losses, mask, seed, scale):
    features = (np.random.default_rng(seed).standard_normal((2, 4, 5, 7)) * scale).astype(np.float32)
    for options, run in losses:
        value, gradient = run(features, mask)
        right = expected(features, mask, **options)
        assert abs(value - right[0]) <= 1e-5 * max(abs(right[0]), 1e-3)
        assert np.abs(gradient - right[1]).max() <= 2e-5 * max(np.abs(right[1]).max(), 1e-3 / scale)


def test_scores_far_apart():
    """Each score's exponential alone would overflow, or be lost beside the largest; the gradient stays finite."""
    features = np.random.default_rng(3).standard_normal((2, 6, HEIGHT, WIDTH)).astype(np.float32) * 100
    mask = masks((STRIPE + 3, PIXELS - 5), seed=4)
    value, gradient = gradient_of(PixelContrastiveLoss(normalize=False))(features, mask)
    right = expected(features, mask, normalize=False)
    assert right[0] > 1e5
    assert_close(value, right[0], relative=1e-5)
    assert_close(gradient, right[1], relative=1e-4)


def test_sums_of_half_precision_features_are_float32():
    """A float16 sum would stop growing at 2048; the gradient comes in the precision of the features."""
    features = np.random.default_rng(5).standard_normal((2, 6, 64, 64)).astype(np.float16)
    mask = np.zeros((2, 64, 64), bool)
    mask[:, 8:30, 10:40] = True
    value, gradient = gradient_of(PixelContrastiveLoss(temperature=1.0))(features, mask)
    right = expected(features.astype(np.float32), mask, temperature=1.0)
    assert gradient.dtype == np.float16
    assert_close(value, right[0], relative=1e-5)
    # float16 has steps of 6e-8 near 0, and these gradients are small
    assert np.abs(gradient - right[1]).max() <= 1e-7 + 1e-3 * np.abs(right[1]).max()


def test_gradient_in_a_larger_graph():
    """Behind a layer and beside another loss, as in training: the layer's gradient is what PyTorch finds."""

    class Model(nn.Cell):
        def __init__(self):
            super().__init__()
            self.conv, self.contrast = nn.Conv2d(3, 4, 1, weight_init="normal"), PixelContrastiveLoss()

        def construct(self, x, mask):
            y = self.conv(x)
            return 0.1 * self.contrast(y, mask) + (y * y).mean()

    model = Model()
    weight = np.random.default_rng(6).standard_normal((4, 3, 1, 1)).astype(np.float32)
    model.conv.weight.set_data(Tensor(weight))
    x = np.random.default_rng(7).standard_normal((2, 3, HEIGHT, WIDTH)).astype(np.float32)
    mask = masks((20, 100), seed=8)
    found = mindspore.grad(model, None, model.conv.weight)(Tensor(x), Tensor(mask.astype(np.float32)))
    w = torch.from_numpy(weight).double().requires_grad_()
    y = torch.nn.functional.conv2d(torch.from_numpy(x).double(), w)
    (0.1 * contrastive_loss_in_torch(y, torch.from_numpy(mask)) + (y * y).mean()).backward()
    assert_close(found, w.grad.numpy(), relative=1e-5)
