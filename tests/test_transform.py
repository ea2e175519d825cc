"""Images and masks on their way to the model, against OpenCV and NumPy in float64."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from coupalign.data.transform import mask_resizing, prepare_image, probability_at
from tests.conftest import assert_close

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("shape", [(64, 64, 3), (37, 150, 3), (480, 20, 3), (1, 1, 3), (64, 32, 3)])
def test_prepared_image_is_resized_and_normalised(shape):
    rgb = _noise(*shape)
    prepared = prepare_image(rgb, 64)
    resized = cv2.resize(rgb, (64, 64), interpolation=cv2.INTER_LINEAR).astype(np.float64) / 255
    assert prepared.dtype == np.float32
    assert_close(prepared, ((resized - MEAN) / STD).transpose(2, 0, 1), relative=1e-6)


def test_a_mask_is_resized_to_nearest_pixels_and_never_lost():
    (resize,) = mask_resizing(4)
    mask = np.zeros((8, 12), np.uint8)
    mask[2:4, 3:9] = 255
    np.testing.assert_array_equal(resize(mask), mask[::2, ::3])
    mask[:] = 0
    assert not resize(mask).any()
    mask[7, 10] = 255  # between the rows and columns that remain
    assert np.argwhere(resize(mask)).tolist() == [[3, 3]]


def test_resizing_is_by_half_pixel_centres():
    # One row of two pixels 0 and 200, twice as wide: 0, 50, 150, 200.
    rgb = np.repeat(np.array([[0, 200]], np.uint8)[..., None], 3, axis=2).repeat(2, axis=0)
    red = prepare_image(rgb, 4)[0] * STD[0] * 255 + MEAN[0] * 255
    np.testing.assert_allclose(red, [[0, 50, 150, 200]] * 4, atol=1e-3)


def bilinear(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """By the definition: half-pixel centres, edges repeated."""

    def weights(size_in: int, size_out: int) -> np.ndarray:
        position = np.clip((np.arange(size_out) + 0.5) * size_in / size_out - 0.5, 0, size_in - 1)
        low = np.floor(position).astype(int)
        matrix = np.zeros((size_out, size_in))
        matrix[np.arange(size_out), low] += 1 - (position - low)
        matrix[np.arange(size_out), np.minimum(low + 1, size_in - 1)] += position - low
        return matrix

    return weights(values.shape[0], height) @ values @ weights(values.shape[1], width).T


@pytest.mark.parametrize(("height", "width"), [(32, 32), (75, 40), (20, 31), (64, 16), (1, 1)])
def test_probability_at_an_images_own_size_is_bilinear(height, width):
    probability = np.random.default_rng(0).random((32, 32)).astype(np.float32)
    at = probability_at(probability, height, width)
    assert at.dtype == np.float32
    assert_close(at, bilinear(probability.astype(np.float64), height, width), relative=1e-5)
