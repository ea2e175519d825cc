"""What is on a drawn page, for tests: its texts with their boxes, in pixels from the upper left corner."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from coupalign.visual.page import Page


def texts(page: Page) -> list[str]:
    return [text.get_text() for text in page._figure.texts]


def assert_legible(page: Page) -> np.ndarray:
    """No text meets another or leaves the page, and none is smaller than 11 pixels. Returns the page's pixels."""
    pixels = page.pixels()
    renderer = page._canvas.get_renderer()
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in page._figure.texts if text.get_text()]
    for text in page._figure.texts:
        assert text.get_fontsize() >= 11, text.get_text()
    for text, box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= pixels.shape[1] and box.y1 <= pixels.shape[0], text
    for (one, first), (other, second) in combinations(boxes, 2):
        wide = min(first.x1, second.x1) - max(first.x0, second.x0)
        high = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert wide <= 0 or high <= 1, f"{one!r} and {other!r} overlap"
    return pixels
