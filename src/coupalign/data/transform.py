"""Transforms of images and masks before and after the model."""

from __future__ import annotations

import cv2
import numpy as np
from mindspore.dataset import transforms, vision

# ImageNet, RGB, on 0 .. 255.
MEAN = tuple(255 * value for value in (0.485, 0.456, 0.406))
STD = tuple(255 * value for value in (0.229, 0.224, 0.225))


def image_transforms(image_size: int) -> list:
    """Returns the operators from decoded RGB (H, W, 3) uint8 to the model's input (3, S, S) float32.

    Bilinear resize to the square without keeping the aspect ratio; ImageNet mean and standard deviation.
    """
    return [vision.Resize((image_size, image_size), vision.Inter.LINEAR), vision.Normalize(MEAN, STD), vision.HWC2CHW()]


def mask_decoding() -> list:
    """Returns the operators from the bytes of a mask's PNG to (H, W) uint8, 0 or 255."""
    return [vision.Decode(), vision.ConvertColor(vision.ConvertMode.COLOR_RGB2GRAY)]


def mask_resizing(image_size: int) -> list:
    """Returns the operators from (H, W) uint8 to (S, S) uint8, by nearest neighbour.

    An object too small for that keeps one pixel. Without it the sample would say that nothing fits the expression.
    """
    resize = vision.Resize((image_size, image_size), vision.Inter.NEAREST)

    def resize_mask(mask: np.ndarray) -> np.ndarray:
        resized = resize(mask)
        if not resized.any() and mask.any():  # the small mask first, since nearly all have a pixel
            pixels = np.argwhere(mask)
            resized[tuple(pixels[len(pixels) // 2] * image_size // mask.shape)] = 255
        return resized

    return [resize_mask]


def foreground(dtype) -> transforms.Mask:
    """Returns the operator from a mask of 0 and 255 to one of 0 and 1, of the MindSpore type `dtype`."""
    return transforms.Mask(transforms.Relational.GT, 127, dtype)


def object_masks(count: int, side: int, size: int) -> list:
    """Returns the operators from masks one below the other, (n side, side) uint8, to the first `count`.

    Their output is (count, size, size) float32, 0 or 1, resized by nearest neighbour.
    """

    def split(masks: np.ndarray) -> np.ndarray:
        return (masks.reshape(count, size, size) > 127).astype(np.float32)

    return [vision.Crop((0, 0), (count * side, side)), vision.Resize((count * size, size), vision.Inter.NEAREST), split]


def prepare_image(rgb: np.ndarray, image_size: int) -> np.ndarray:
    """Converts RGB (H, W, 3) uint8 to the model's input (3, S, S) float32, equal to the pipeline bit for bit."""
    for transform in image_transforms(image_size):
        rgb = transform(rgb)
    return rgb


def restore_image(image: np.ndarray) -> np.ndarray:
    """Converts the model's input (3, S, S) float32 back to RGB (S, S, 3) uint8."""
    return (image.transpose(1, 2, 0) * STD + MEAN).round().clip(0, 255).astype(np.uint8)


def probability_at(probability: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes a probability map (S, S) float32 to an image's own size: (height, width) float32, bilinear."""
    return cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR)
