"""Eq 13 to 16 and their gradients against plain references in float64."""

from __future__ import annotations

import math

import mindspore
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mindspore import Tensor, nn

from coupalign import devices
from coupalign.devices import default_tile
from coupalign.loss import PixelContrastiveLoss, SegmentationLoss
from tests.conftest import assert_close

HEIGHT, WIDTH = 9, 16
PIXELS = HEIGHT * WIDTH
TILE = default_tile(12, PIXELS, on_cpu=True)
# Pixels of the referent in each image of a batch: no tile, one or many, just full and just begun, on either side.
COUNTS = (0, 1, TILE - 1, TILE, TILE + 1, 2 * TILE, 72, 73, PIXELS - TILE - 1, PIXELS - TILE, PIXELS - 1, PIXELS)
OPTIONS = [
    {},
    {"log": False},
    {"temperature": 0.03},  # exponentials of these scores would overflow in float16
    {"temperature": 1.0, "normalize": False},
    {"temperature": 1.0, "normalize": False, "log": False},
    {"tile": 7},
    {"tile": 1000},
]


def eq_14_to_16(features, mask, temperature=0.1, normalize=True, log=True, tile=None) -> torch.Tensor:
    """The plain form: all pixels of one side against all of the other, image by image."""

    def scale(x):
        return torch.nn.functional.normalize(x, dim=-1, eps=1e-6) if normalize else x

    total = 0.0 * features.sum()
    for y, inside in zip(features, torch.from_numpy(nearest(mask, *features.shape[2:]))):
        sides = scale(y[:, inside].T), scale(y[:, ~inside].T)
        if len(sides[0]) and len(sides[1]):
            for own, other in (sides, sides[::-1]):
                positive = own @ scale(own.mean(0)) / temperature
                ratio = torch.log_softmax(torch.cat([positive[:, None], own @ other.T / temperature], 1), 1)[:, 0]
                total = total - (ratio if log else ratio.exp()).mean()
    return total / len(features)


def nearest(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Mask (B, H, W) -> (B, height, width) bool: pixel (i, j) is that at (floor(i H / height), floor(j W / width))."""
    small = np.zeros((len(mask), height, width), bool)
    for b, i, j in np.ndindex(small.shape):
        small[b, i, j] = mask[b, math.floor(i * mask.shape[1] / height), math.floor(j * mask.shape[2] / width)] > 0.5
    return small


def expected(features: np.ndarray, mask: np.ndarray, **options) -> tuple[float, np.ndarray]:
    """Value and gradient of the plain form in float64."""
    x = torch.from_numpy(features).double().requires_grad_()
    value = eq_14_to_16(x, mask, **options)
    value.backward()
    return value.item(), x.grad.numpy()


def compiled(loss: nn.Cell):
    """A compiled function of two NumPy arrays that returns loss and gradient."""
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    value_and_grad = mindspore.value_and_grad(loss)

    def run(x: np.ndarray, mask: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = value_and_grad(Tensor(x), Tensor(mask.astype(np.float32)))
        assert value.shape == () and value.dtype == mindspore.float32
        return float(value), gradient.asnumpy()

    return run


def random_features(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def masks(*counts: int, seed: int = 0) -> np.ndarray:
    """(B, HEIGHT, WIDTH) bool with the given numbers of scattered pixels."""
    random = np.random.default_rng(seed)
    return np.stack([random.permutation(PIXELS).reshape(HEIGHT, WIDTH) < count for count in counts])


@pytest.mark.parametrize(
    ("on_cpu", "options"),
    [*((True, options) for options in OPTIONS), *((False, options) for options in OPTIONS[::2])],
    ids=str,
)
def test_contrastive_loss_is_eq_14_to_16(on_cpu, options, monkeypatch):
    """One image at a time in the reference, so that no image hides an error of another."""
    monkeypatch.setattr(devices, "on_cpu", lambda: on_cpu)
    features, mask = random_features(len(COUNTS), 6, HEIGHT, WIDTH), masks(*COUNTS)
    value, gradient = compiled(PixelContrastiveLoss(**options))(features, mask)
    each = [expected(x[None], m[None], **options) for x, m in zip(features, mask)]
    assert_close(value, np.mean([loss for loss, _ in each]), relative=1e-5)
    for count, found, (_, right) in zip(COUNTS, gradient * len(COUNTS), each):
        if count in (0, PIXELS):
            assert (found == 0).all()
        else:
            assert_close(found, right[0], relative=1e-5)


@pytest.mark.parametrize("normalize", [True, False])
def test_contrastive_loss_as_printed(normalize):
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    features, mask = random_features(1, 5, HEIGHT, WIDTH), masks(20)
    y = features.reshape(5, -1)
    y = y / np.linalg.norm(y, axis=0) if normalize else y
    loss = PixelContrastiveLoss(temperature=1.0, normalize=normalize)
    found = float(loss.as_printed(Tensor(y), Tensor(mask.reshape(-1).astype(np.float32))))
    assert_close(found, expected(features, mask, temperature=1.0, normalize=normalize)[0], relative=1e-5)


def test_contrastive_loss_in_pynative_mode():
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    features, mask = random_features(2, 5, HEIGHT, WIDTH), masks(5, 100)
    for options in ({}, {"log": False}):
        loss = PixelContrastiveLoss(**options)
        value, gradient = mindspore.value_and_grad(loss)(Tensor(features), Tensor(mask.astype(np.float32)))
        right = expected(features, mask, **options)
        assert_close(value, right[0], relative=1e-5)
        assert_close(gradient, right[1], relative=1e-5)


@pytest.fixture(scope="module")
def losses(_mode_of_file):
    """Compiled once for all random masks."""
    return [(options, compiled(PixelContrastiveLoss(**options))) for options in ({}, {"temperature": 0.02})]


@settings(max_examples=40)
@given(mask=arrays(bool, (2, 5, 7)), seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_any_mask(losses, mask, seed, scale):
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    features = random_features(2, 4, 5, 7, seed=seed) * np.float32(scale)
    for options, run in losses:
        value, gradient = run(features, mask)
        right = expected(features, mask, **options)
        assert abs(value - right[0]) <= 1e-5 * max(abs(right[0]), 1e-3)
        assert np.abs(gradient - right[1]).max() <= 2e-5 * max(np.abs(right[1]).max(), 1e-3 / scale)


@pytest.mark.parametrize("size", [4, 6, 7, 10, 13])
def test_masks_are_resized_to_the_nearest_pixel_rounded_down(size):
    """Mask sizes include those that are no multiple of the size of the features."""
    features, mask = random_features(1, 3, 4, 4), np.random.default_rng(size).random((1, size, size)) > 0.5
    found = PixelContrastiveLoss()(Tensor(features), Tensor(mask.astype(np.float32)))
    assert_close(found, expected(features, mask)[0], relative=1e-5)


def test_features_of_zeros():
    """Each term is -log(1 / (1 + number of negatives)), and gradients are finite."""
    value, gradient = compiled(PixelContrastiveLoss())(np.zeros((1, 6, HEIGHT, WIDTH), np.float32), masks(20))
    assert_close(value, np.log(1 + 20) + np.log(1 + PIXELS - 20), relative=5e-6)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(("temperature", "normalize"), [(0.001, True), (0.1, False)])
def test_large_scores_do_not_overflow(temperature, normalize):
    """The exponential of a single score would overflow, or vanish beside the largest."""
    features, mask = random_features(2, 6, HEIGHT, WIDTH, seed=3) * 100, masks(TILE + 3, PIXELS - 5, seed=4)
    value, gradient = compiled(PixelContrastiveLoss(temperature, normalize))(features, mask)
    right = expected(features, mask, temperature=temperature, normalize=normalize)
    assert right[0] > (100 if normalize else 1e5)
    assert_close(value, right[0], relative=1e-5)
    assert_close(gradient, right[1], relative=1e-4)


def test_half_precision_features_are_compared_in_float32():
    """A float16 sum would stop growing at 2048. The gradient has the dtype of the features."""
    features = random_features(2, 6, 64, 64, seed=5).astype(np.float16)
    mask = np.zeros((2, 64, 64), bool)
    mask[:, 8:30, 10:40] = True
    value, gradient = compiled(PixelContrastiveLoss(temperature=1.0))(features, mask)
    right = expected(features.astype(np.float32), mask, temperature=1.0)
    assert gradient.dtype == np.float16
    assert_close(value, right[0], relative=1e-5)
    # float16 has steps of 6e-8 near 0, and these gradients are small.
    assert np.abs(gradient - right[1]).max() <= 1e-7 + 1e-3 * np.abs(right[1]).max()


def test_gradient_in_a_larger_graph():
    """After a layer and beside another loss, as in training, the gradient of the layer is that of PyTorch."""

    class Model(nn.Cell):
        def __init__(self):
            super().__init__()
            self.conv, self.contrast = nn.Conv2d(3, 4, 1, weight_init="normal"), PixelContrastiveLoss()

        def construct(self, x, mask):
            y = self.conv(x)
            return 0.1 * self.contrast(y, mask) + (y * y).mean()

    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    model, weight = Model(), random_features(4, 3, 1, 1, seed=6)
    model.conv.weight.set_data(Tensor(weight))
    x, mask = random_features(2, 3, HEIGHT, WIDTH, seed=7), masks(20, 100, seed=8)
    found = mindspore.grad(model, None, model.conv.weight)(Tensor(x), Tensor(mask.astype(np.float32)))
    w = torch.from_numpy(weight).double().requires_grad_()
    y = torch.nn.functional.conv2d(torch.from_numpy(x).double(), w)
    (0.1 * eq_14_to_16(y, mask) + (y * y).mean()).backward()
    assert_close(found, w.grad.numpy(), relative=1e-5)


@pytest.mark.parametrize("on_cpu", [True, False])
def test_no_tile_leaves_its_map(on_cpu):
    """The smaller side has at most half of the pixels, and the last tile is filled up with pixels of the other."""
    for batch in (1, 2, 3, 5, 6, 64):
        for length in (*range(1, 1500), 12544):
            tile = default_tile(batch, length, on_cpu)
            assert 1 <= tile and math.ceil(length // 2 / tile) * tile <= length


def test_devices_read_the_condition_of_the_loop_seldom():
    """At the paper's size and batch, for any mask, with at most 330 MB of scores."""
    pixels = 112**2
    tile = default_tile(16, pixels, on_cpu=False)
    assert math.ceil(pixels // 2 / tile) <= 16 and tile % 16 == 0 and 16 * tile * pixels * 4 < 330e6


def with_gradient(loss, x: np.ndarray, mask: np.ndarray) -> tuple[float, np.ndarray]:
    value, gradient = mindspore.value_and_grad(loss)(Tensor(x.astype(np.float32)), Tensor(mask.astype(np.float32)))
    assert value.shape == () and value.dtype == mindspore.float32
    return float(value), gradient.asnumpy()


def segmentation_loss(logits: np.ndarray, mask: np.ndarray) -> float:
    """Eq 13, pixel by pixel, with exact logarithms of the sigmoid and of its complement."""
    images = []
    for m, target in zip(logits.reshape(len(logits), -1), mask.reshape(len(mask), -1)):
        terms = [t * -math.log1p(math.exp(-x)) + (1 - t) * -math.log1p(math.exp(x)) for x, t in zip(m, target)]
        images.append(-sum(terms) / len(terms))
    return sum(images) / len(images)


@pytest.mark.parametrize("mode", [mindspore.PYNATIVE_MODE, mindspore.GRAPH_MODE])
def test_segmentation_loss_is_eq_13(mode):
    mindspore.set_context(mode=mode)
    random = np.random.default_rng(0)
    logits, mask = random.standard_normal((3, 6, 5)) * 3, (random.random((3, 6, 5)) > 0.7).astype(float)
    value, gradient = with_gradient(SegmentationLoss(), logits, mask)
    assert_close(value, segmentation_loss(logits, mask), relative=5e-6)
    assert_close(gradient, (1 / (1 + np.exp(-logits)) - mask) / logits.size, relative=5e-6)


def test_segmentation_loss_of_sizes_in_turn():
    """The gradient of a mean that remembers the first size would be wrong at the second."""
    for size in (2, 5):
        _, gradient = with_gradient(SegmentationLoss(), np.zeros((1, size, size)), np.zeros((1, size, size)))
        assert_close(gradient, np.full((1, size, size), 0.5 / size**2), relative=1e-6)


def test_segmentation_loss_of_large_logits():
    """A confident right logit costs nothing, a wrong one its magnitude."""
    logits, mask = np.array([[[1e4, -1e4], [1e4, -1e4]]]), np.array([[[1.0, 0.0], [0.0, 1.0]]])
    value, gradient = with_gradient(SegmentationLoss(), logits, mask)
    assert_close(value, 2 * 1e4 / 4, relative=1e-6)
    assert_close(gradient, np.array([[[0, 0], [1, -1]]]) / 4, relative=1e-6)
