"""Fonts, wrapped text and scaled images of the pictures."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from matplotlib.text import Text

from coupalign.visual.figures import fitted, font_families, heading, new_figure, pixels, wrapped


def test_a_character_that_the_first_font_lacks_comes_from_another(caplog):
    assert font_families("the left cup, Zürich, ελ") == ["DejaVu Sans"]
    first, second = font_families("\N{ARC}")  # matplotlib's DejaVu Sans Mono has it, DejaVu Sans has not
    assert first == "DejaVu Sans" != second and not caplog.records
    figure = new_figure(300, 100)
    heading(figure, "\N{ARC}")
    pixels(figure)
    assert figure.get_suptitle() and figure.findobj(Text)[0].get_fontfamily() == [first, second]


def test_missing_characters_are_reported_in_one_line(caplog, recwarn):
    figure = new_figure(300, 100)
    heading(figure, "\ue000\ue001 private")  # no font has these
    with caplog.at_level(logging.WARNING):
        assert np.ptp(pixels(figure)) > 0
    assert len(caplog.records) == 1 and "\ue000\ue001" in caplog.text
    assert not [each for each in recwarn if "Glyph" in str(each.message)]


@pytest.mark.parametrize("text", ["", "short", "many words " * 40, "W" * 500, "狗" * 100])
def test_wrapped_text_keeps_every_word(text):
    assert wrapped(text, 40).replace("\n", "").replace(" ", "") == text.replace(" ", "")
    assert wrapped(text, 40, 2).count("\n") <= 1


@pytest.mark.parametrize("shape", [(30, 60), (60, 30), (1, 5000), (5000, 1)])
def test_images_keep_their_aspect_ratio(shape):
    image = np.zeros((*shape, 3), np.uint8)
    height, width = fitted(image, 20, 20).shape[:2]
    assert max(height, width) == 20 and min(height, width) == max(round(20 * min(shape) / max(shape)), 1)
    assert fitted(image, 20, 20, np.ones(shape, bool)).shape[:2] == (height, width)
