"""The HTML page that describes a data set."""

from __future__ import annotations

import base64
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

import data_card
import prepare_data
from coupalign.overlay import overlay
from tests.handmade_refer import Handmade


class _Page(HTMLParser):
    """Cells of the tables by heading, captions, pictures (H, W, 3) RGB and all text."""

    def __init__(self, text: str):
        super().__init__()
        self.cells: dict[tuple[str, str], list[str]] = {}
        self.captions, self.pictures, self.text = [], [], ""
        self._tag, self._split, self._heading = "", "", ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self._tag = tag
        if tag == "figcaption":
            self.captions.append([])
        if tag == "img":
            jpeg = base64.b64decode(dict(attributes)["src"].removeprefix("data:image/jpeg;base64,"))
            self.pictures.append(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1])

    def handle_data(self, data):
        self.text += data
        if not data.strip():
            return
        if self._tag == "h2":
            self._split = data
        elif self._tag == "h3":
            self._heading = data
        elif self._tag == "td":
            self.cells.setdefault((self._split, self._heading), []).append(data)
        elif self._tag in ("figcaption", "br"):
            self.captions[-1].append(data)


@pytest.fixture
def handmade(tmp_path) -> Handmade:
    data = Handmade(tmp_path / "source")
    data.refs[1]["sentences"][0]["sent"] = "the <b>cup</b> & 30 more"
    data.write()
    arguments = ["--dataset", "refcoco", "--annotations", str(data.annotations), "--images", str(data.images)]
    assert prepare_data.main([*arguments, "--output", str(tmp_path / "data"), "--max_tokens", "5"]) == 0
    return data


def _page(tmp_path, *more: str) -> _Page:
    arguments = ["--dataset", "refcoco", "--data_dir", str(tmp_path / "data"), "--max_tokens", "5", *more]
    assert data_card.main(arguments) == 0
    return _Page((tmp_path / "data/card.html").read_text())


def test_counts_by_hand(handmade, tmp_path):
    page = _page(tmp_path)
    # "the left cup", "upper cup", "the <b>cup</b> & 30 more"
    assert page.cells["train", "Words per expression"] == ["2", "1", "3", "1", "6", "1"]
    words = page.cells["train", "Most frequent words"]
    assert words[words.index("cup") + 1] == "3"
    # 200 of 40 x 60 pixels, shared by two referents, are 0.083; 400 of 50 x 30 are 0.267.
    for split, covered in (("train", "0.03 to 0.1"), ("val", "0.1 to 0.3")):
        areas = page.cells[split, "Share of the image covered by a referent"]
        assert [label for label, count in zip(areas[::2], areas[1::2]) if count != "0"] == [covered]
    assert "1 images, 2 referents, 3 expressions, 1 categories; 2 expressions fill all 5 word pieces" in page.text
    assert "synthetic" not in page.text


def test_samples_show_the_referent_and_all_that_is_said_of_it(handmade, tmp_path):
    page = _page(tmp_path)
    assert sorted(page.captions) == sorted(
        [
            ["the left cup", "upper cup"],
            ["the <b>cup</b> & 30 more"],
            ["dog", "DOG, standing!", 'the “café” dog\'s "tail"; drop'],
        ]
    )
    for captions, picture in zip(page.captions, page.pictures, strict=True):
        image_id, ann_id = (9, 4) if "dog" in captions else (7, 1)
        expected = overlay(handmade.pixels[image_id], handmade.masks[ann_id])
        expected = cv2.resize(expected, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        assert max(picture.shape) == 320
        assert np.abs(picture.astype(int) - expected).mean() < 4  # JPEG's own loss


def test_the_number_of_samples_is_kept_and_their_choice_repeats(handmade, tmp_path):
    assert len(_page(tmp_path, "--samples", "1").captions) == 2
    assert _page(tmp_path, "--samples", "1").captions == _page(tmp_path, "--samples", "1").captions
    assert not _page(tmp_path, "--samples", "0").captions


def test_synthetic_data_are_labelled(tiny_data, tmp_path):
    arguments = ["--dataset", "refshapes", "--data_dir", str(tiny_data), "--max_tokens", "8", "--samples", "0"]
    arguments += ["--output", str(tmp_path / "card.html")]
    assert data_card.main(arguments) == 0
    page = _Page((tmp_path / "card.html").read_text())
    assert "This data set is synthetic." in page.text
    assert {"attribute", "negation"} <= set(page.cells["train", "Families of expressions"])
