"""The picture of the architecture: what is seen of a model is what the paper says, and what is drawn was seen."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

import visualise
from coupalign.config import Config, load_config
from coupalign.files import REPOSITORY
from tests.conftest import SMALLEST


def of_the_paper(config: Config) -> dict[str, list[int]]:
    """Shapes as section 3 gives them, for a batch of one."""
    side, words, width = config.model.image_size, config.model.max_tokens, config.model.bert_hidden_size
    channels = [config.model.swin_embed_dim * 2**i for i in range(4)]
    sides = [side // 4 // 2**i for i in range(4)]
    pixels = [each**2 for each in sides]
    shapes = {
        "image": [1, 3, side, side],
        "token_ids": [1, words],
        "token_mask": [1, words],
        "V_o": [1, pixels[3], channels[3]],
        "L_o": [1, words, width],
        "S_o": [1, pixels[3], channels[3]],
        "Y_5": [1, channels[3], sides[3], sides[3]],
        "logits": [1, side, side],
        "M": [1, sides[0], sides[0]],
        "Q_w": [1, config.model.num_queries],
        "L_g": [1, width],
        "Q_o": [1, config.model.num_queries, config.model.decoder_dim],
        "Q": [1, config.model.num_queries, config.model.decoder_dim],
    }
    for i in range(4):
        shapes |= {
            f"V_{i + 1}": [1, pixels[i], channels[i]],
            f"L_{i + 1}": [1, words, width],
            f"Y_{i + 1}": [1, config.model.seg_head_dim, sides[i], sides[i]],
            f"over_words_{i + 1}": [1, pixels[i], words],
            f"over_pixels_{i + 1}": [1, words, pixels[i]],
        }
    return shapes


def drawn(path) -> dict[str, list[int]]:
    with Image.open(path) as picture:
        return json.loads(picture.text["shapes"])


@pytest.fixture(scope="module")
def draw(tmp_path_factory):
    """``draw(key=value, …)`` runs ``visualise.py architecture`` on the smallest model and gives the picture's path."""

    def run(**keys):
        path = tmp_path_factory.mktemp("drawn") / "small.png"
        options = [
            f"--{name}={','.join(map(str, value)) if isinstance(value, list) else value}"
            for name, value in {**SMALLEST, **keys}.items()
        ]
        assert visualise.main(["architecture", "--output", str(path), *options]) == 0
        return path

    return run


@pytest.fixture(scope="module")
def whole(draw):
    return draw()


def test_what_runs_has_the_papers_shapes(whole):
    assert drawn(whole) == of_the_paper(load_config(overrides=SMALLEST))


def test_what_the_configuration_leaves_out_is_not_drawn(draw, whole):
    without = draw(wpa_direction="uni", wpa_stages=[2, 4], sma="false")
    assert {name for name in of_the_paper(load_config(overrides=SMALLEST)) if name not in drawn(without)} == {
        "over_words_1",
        "over_words_3",
        *(f"over_pixels_{i}" for i in range(1, 5)),
        "Q",
        "Q_o",
        "Q_w",
        "L_g",
    }
    # In the middle, between the rows of both encoders: with no alignment before stage 1 its column is white.
    column = np.s_[680:1090, 330:520]
    assert (np.asarray(Image.open(without).convert("L"))[column] == 255).all()
    assert (np.asarray(Image.open(whole).convert("L"))[column] < 255).any()


def test_the_pages_picture_is_that_of_the_papers_configuration():
    path = REPOSITORY / "docs/architecture.png"
    assert drawn(path) == of_the_paper(load_config())
    assert path.stat().st_size < 300_000


def test_the_pages_shapes_are_the_papers():
    page = (REPOSITORY / "docs/architecture.md").read_text(encoding="utf-8")
    expected = of_the_paper(load_config())
    named = re.findall(r"\b([A-Z]_(?:\w|\{\w\})|logits|M) \(B, ([\d, ]+)\)", page)
    assert {name for name, _ in named} >= {"V_1", "L_1", "S_o", "Q_o", "Y_1", "Q_w", "M", "logits"}
    for name, shape in named:
        assert [int(size) for size in shape.split(", ")] == expected[name][1:], name
