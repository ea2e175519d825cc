"""Eq 13-16 against loops in NumPy float64, and their gradients against PyTorch's."""

from __future__ import annotations

import math

import mindspore
import numpy as np
import pytest
import torch
from mindspore import Tensor

from coupalign.loss import PixelContrastiveLoss, SegmentationLoss
from tests.conftest import assert_close


def with_gradient(loss, x: np.ndarray, mask: np.ndarray) -> tuple[float, np.ndarray]:
    """A loss of a Cell and its gradient by x."""
    value, gradient = mindspore.value_and_grad(loss)(Tensor(x.astype(np.float32)), Tensor(mask.astype(np.float32)))
    assert value.shape == () and value.dtype == mindspore.float32
    return float(value), gradient.asnumpy()


def in_torch(loss, x: np.ndarray, mask: np.ndarray, *options) -> tuple[float, np.ndarray]:
    """A loss written for PyTorch and its gradient by x, in float64."""
    y = torch.from_numpy(x).double().requires_grad_()
    value = loss(y, torch.from_numpy(mask), *options)
    value.backward()
    return value.item(), y.grad.numpy()


def nearest(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Mask (B, H, W) -> (B, height, width) bool: pixel (i, j) is that at (floor(i H / height), floor(j W / width))."""
    small = np.zeros((len(mask), height, width), bool)
    for b, i, j in np.ndindex(small.shape):
        small[b, i, j] = mask[b, math.floor(i * mask.shape[1] / height), math.floor(j * mask.shape[2] / width)] > 0.5
    return small


def contrastive_loss(features: np.ndarray, mask: np.ndarray, temperature=0.1, normalize=True, log=True) -> float:
    """Eq 14-16, pixel by pixel."""

    def unit(x):
        return x / max(np.linalg.norm(x), 1e-6) if normalize else x

    total = 0.0
    for y, inside in zip(features, nearest(mask, *features.shape[2:])):
        sides = [[unit(y[:, i, j]) for i, j in np.argwhere(side)] for side in (inside, ~inside)]
        if not all(sides):
            continue
        for own, other in (sides, sides[::-1]):
            prototype = unit(np.mean(own, 0))
            for pixel in own:
                positive = np.exp(pixel @ prototype / temperature)
                ratio = positive / (positive + sum(np.exp(pixel @ each / temperature) for each in other))
                total += (-np.log(ratio) if log else -ratio) / len(own)
    return total / len(features)


def contrastive_loss_in_torch(
    features: torch.Tensor, mask: torch.Tensor, temperature=0.1, normalize=True, log=True
) -> torch.Tensor:
    """The same in a way that PyTorch can differentiate."""

    def unit(x):
        return torch.nn.functional.normalize(x, dim=-1, eps=1e-6) if normalize else x

    losses = []
    for y, inside in zip(features, torch.from_numpy(nearest(mask.numpy(), *features.shape[2:]))):
        sides = unit(y[:, inside].T), unit(y[:, ~inside].T)
        terms = y.sum() * 0
        if len(sides[0]) and len(sides[1]):
            for own, other in (sides, sides[::-1]):
                positive = own @ unit(own.mean(0)) / temperature
                scores = torch.cat([positive[:, None], own @ other.T / temperature], 1)
                ratio = torch.log_softmax(scores, 1)[:, 0]
                terms = terms - (ratio if log else ratio.exp()).mean()
        losses.append(terms)
    return torch.stack(losses).mean()


def random_case(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features (3, 5, 4, 6) and masks (3, 16, 12): random, a single pixel of the referent, a single one of the rest."""
    random = np.random.default_rng(seed)
    mask = random.random((3, 16, 12))
    mask[1], mask[2] = 0, 1
    mask[1, 4, 8], mask[2, 12, 2] = 1, 0
    return random.standard_normal((3, 5, 4, 6)).astype(np.float32), mask


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"log": False},
        {"normalize": False, "temperature": 1.0},
        {"temperature": 0.5},
        {"temperature": 2.0, "normalize": False, "log": False},
    ],
    ids=str,
)
def test_contrastive_loss_is_eq_14_to_16(options):
    features, mask = random_case()
    small = nearest(mask, 4, 6)
    assert [small[1].sum(), (~small[2]).sum()] == [1, 1] and 1 < small[0].sum() < 23
    value, gradient = with_gradient(PixelContrastiveLoss(**options), features, mask)
    assert_close(value, contrastive_loss(features.astype(float), mask, **options), relative=1e-5)
    expected = in_torch(
        contrastive_loss_in_torch,
        features,
        mask,
        *(options.get(key, default) for key, default in (("temperature", 0.1), ("normalize", True), ("log", True))),
    )
    assert_close(value, expected[0], relative=1e-5)
    assert_close(gradient, expected[1], relative=1e-5)


def test_contrastive_loss_in_graph_mode():
    features, mask = random_case()
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    value, gradient = with_gradient(PixelContrastiveLoss(), features, mask)
    expected = in_torch(contrastive_loss_in_torch, features, mask)
    assert_close(value, expected[0], relative=1e-5)
    assert_close(gradient, expected[1], relative=1e-5)


@pytest.mark.parametrize("size", [4, 6, 7, 10, 13])
def test_masks_are_resized_to_the_nearest_pixel_rounded_down(size):
    """Also where the mask is no multiple of the features' size."""
    random = np.random.default_rng(size)
    features, mask = random.standard_normal((1, 3, 4, 4)).astype(np.float32), random.random((1, size, size)) > 0.5
    found = PixelContrastiveLoss()(Tensor(features), Tensor(mask.astype(np.float32)))
    assert_close(found, contrastive_loss(features.astype(float), mask), relative=1e-5)


@pytest.mark.parametrize("options", [{}, {"log": False}, {"normalize": False}], ids=str)
def test_images_with_one_side_only_contribute_nothing(options):
    features, mask = random_case()
    mask[1], mask[2] = 0, 1
    value, gradient = with_gradient(PixelContrastiveLoss(**options), features, mask)
    assert_close(value, contrastive_loss(features[:1].astype(float), mask[:1], **options) / 3, relative=1e-5)
    assert np.abs(gradient[0]).max() > 0
    assert (gradient[1:] == 0).all()


def test_features_of_zeros():
    """All pixels alike: each term is -log(1 / (1 + number of pixels on the other side)); gradients are finite."""
    _, mask = random_case()
    counts = nearest(mask, 4, 6).sum((1, 2))
    value, gradient = with_gradient(PixelContrastiveLoss(), np.zeros((3, 5, 4, 6)), mask)
    assert_close(value, np.mean([np.log(1 + n) + np.log(1 + 24 - n) for n in counts]), relative=1e-6)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(("temperature", "normalize"), [(0.001, True), (0.1, False)])
def test_large_scores_do_not_overflow(temperature, normalize):
    """Similarities whose exponentials no number holds."""
    features, mask = random_case()
    features *= 300
    value, gradient = with_gradient(PixelContrastiveLoss(temperature, normalize), features, mask)
    expected = in_torch(contrastive_loss_in_torch, features, mask, temperature, normalize)
    assert expected[0] > (100 if normalize else 1e6)
    assert_close(value, expected[0], relative=1e-5)
    assert_close(gradient, expected[1], relative=1e-5)


def test_half_precision_features_are_compared_in_float32():
    features, mask = random_case()
    features = (features * 100).astype(np.float16)
    value = PixelContrastiveLoss(normalize=False)(Tensor(features), Tensor(mask.astype(np.float32)))
    assert value.dtype == mindspore.float32
    expected, _ = in_torch(contrastive_loss_in_torch, features, mask, 0.1, False)
    assert_close(value, expected, relative=1e-5)


def segmentation_loss(logits: np.ndarray, mask: np.ndarray) -> float:
    """Eq 13, pixel by pixel, with the logarithms of the sigmoid and its complement written so that they are exact."""
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
    """A mean whose gradient remembers the first size would be wrong at the second."""
    for size in (2, 5):
        _, gradient = with_gradient(SegmentationLoss(), np.zeros((1, size, size)), np.zeros((1, size, size)))
        assert_close(gradient, np.full((1, size, size), 0.5 / size**2), relative=1e-6)


def test_segmentation_loss_of_large_logits():
    """Right where it is confident costs nothing, wrong costs the logit."""
    logits, mask = np.array([[[1e4, -1e4], [1e4, -1e4]]]), np.array([[[1.0, 0.0], [0.0, 1.0]]])
    value, gradient = with_gradient(SegmentationLoss(), logits, mask)
    assert_close(value, 2 * 1e4 / 4, relative=1e-6)
    assert_close(gradient, np.array([[[0, 0], [1, -1]]]) / 4, relative=1e-6)
