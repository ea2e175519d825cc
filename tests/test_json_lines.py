"""Custom data sets as JSON Lines: the example of docs/data.md, and mistakes named by file and line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coupalign.data.json_lines import read_json_lines
from coupalign.errors import UserError

CUP = {"image": "desk.jpg", "expression": "the left cup", "mask": {"png": "cup.png"}}
LAMP = {"image": "desk.jpg", "expression": "the lamp", "mask": [[40, 5, 55, 5, 55, 35, 40, 35]]}


@pytest.fixture
def directory(tmp_path) -> Path:
    Image.new("RGB", (60, 40)).save(tmp_path / "desk.jpg")
    Image.new("RGB", (30, 20)).save(tmp_path / "room.png")
    mask = Image.new("L", (60, 40))
    mask.paste(7, (10, 5, 30, 15))
    mask.save(tmp_path / "cup.png")
    return tmp_path


def _read(directory: Path, *lines: object, skip: bool = False):
    file = directory / "own.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return read_json_lines(file, directory, skip)


def _drawn(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((40, 60), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_ids_are_line_numbers(directory):
    dataset = _read(
        directory,
        LAMP,
        "",
        CUP,
        LAMP | {"split": "val"},
        CUP | {"expression": "cup", "family": "short"},
        CUP | {"category": "cup"},
        CUP | {"image": "room.png"},
    )
    assert [
        (r.ref_id, r.ann_ids, r.image_id, r.category, r.split, [(s.sent_id, s.text, s.family) for s in r.sentences])
        for r in dataset.referents
    ] == [
        (1, (1,), 1, "", "train", [(1, "the lamp", "")]),
        (3, (3,), 1, "", "train", [(3, "the left cup", ""), (5, "cup", "short")]),
        (4, (1,), 1, "", "val", [(4, "the lamp", "")]),
        (6, (3,), 1, "cup", "train", [(6, "the left cup", "")]),
        (7, (7,), 7, "", "train", [(7, "the left cup", "")]),
    ]
    assert dataset.annotations_of == {1: [1, 3], 7: [7]}
    assert dataset.splits == ["train", "val"]


def test_paths_of_images_and_of_masks(directory):
    (directory / "elsewhere").mkdir()
    (directory / "desk.jpg").rename(directory / "elsewhere/desk.jpg")
    file = directory / "own.jsonl"
    file.write_text(json.dumps(CUP))
    dataset = read_json_lines(file, directory / "elsewhere")
    assert [image.path for image in dataset.images.values()] == [directory / "elsewhere/desk.jpg"]
    np.testing.assert_array_equal(dataset.mask(1), _drawn(10, 5, 30, 15))


def test_images_have_the_size_that_people_see(directory):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 60)).save(directory / "desk.jpg", exif=exif)
    dataset = _read(directory, CUP)
    assert [(image.height, image.width, image.as_stored) for image in dataset.images.values()] == [(40, 60, False)]
    np.testing.assert_array_equal(dataset.mask(1), _drawn(10, 5, 30, 15))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_encodings_of_windows(directory, encoding, newline):
    lines = [json.dumps(line, ensure_ascii=False) for line in (CUP | {"expression": "caf\u00e9"}, LAMP)]
    (directory / "own.jsonl").write_bytes((newline.join(lines) + newline).encode(encoding))
    dataset = read_json_lines(directory / "own.jsonl", directory)
    assert [s.text for r in dataset.referents for s in r.sentences] == ["caf\u00e9", "the lamp"]


def test_another_encoding_is_named(directory):
    (directory / "own.jsonl").write_bytes(
        json.dumps(CUP | {"expression": "caf\u00e9"}, ensure_ascii=False).encode("latin1")
    )
    with pytest.raises(UserError, match="line 1 is not in UTF-8: save the file as UTF-8"):
        read_json_lines(directory / "own.jsonl", directory)


def test_spellings_of_one_path_are_one_file(directory):
    (directory / "sub").mkdir()
    dataset = _read(
        directory,
        CUP,
        CUP | {"image": "./desk.jpg", "mask": {"png": "sub/../cup.png"}},
        CUP | {"image": str(directory / "desk.jpg"), "mask": {"png": str(directory / "cup.png")}},
    )
    assert dataset.counts("train") == {"images": 1, "referents": 1, "expressions": 3}


def test_several_masks_are_united_and_none_is_a_sample(directory):
    runs = {"size": [40, 60], "counts": [0, 400, 2000]}
    several = CUP | {"mask": [CUP["mask"], LAMP["mask"], runs]}
    dataset = _read(
        directory,
        several,
        LAMP,
        CUP | {"mask": []},
        several | {"expression": "all"},
        CUP | {"mask": []},
        CUP | {"mask": [CUP["mask"]] * 2},
    )
    assert [(r.ref_id, r.ann_ids, [s.sent_id for s in r.sentences]) for r in dataset.referents] == [
        (1, (1, 7, 8), [1, 4]),
        (2, (7,), [2]),
        (3, (), [3]),
        (5, (), [5]),
        (6, (1,), [6]),
    ]
    assert dataset.counts("train") == {"images": 1, "referents": 5, "expressions": 6, "several": 2, "none": 2}
    np.testing.assert_array_equal(dataset.mask(1), _drawn(10, 5, 30, 15))
    np.testing.assert_array_equal(dataset.mask(7), _drawn(40, 5, 55, 35))
    np.testing.assert_array_equal(dataset.mask(8), _drawn(0, 0, 10, 40))


def test_a_mask_without_a_pixel_does_not_mean_none(directory):
    Image.new("L", (60, 40)).save(directory / "black.png")
    dataset = _read(directory, CUP | {"mask": {"png": "black.png"}})
    with pytest.raises(UserError, match=r"line 1 covers no pixel of its image: .*write \[\]"):
        dataset.mask(1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 50_000, "is not JSON"),
        ("[]", "is a list"),
        ({"image": "desk.jpg", "mask": CUP["mask"]}, "has no expression: image, expression and mask are required"),
        (CUP | {"splt": "val"}, "unknown field 'splt': allowed fields are image, expression, mask, split"),
        (CUP | {"expression": 5}, "has the expression 5: write text"),
        (CUP | {"image": None}, "has the image NoneType"),
        (CUP | {"split": "../x"}, r"has the split '\.\./x': use letters"),
        (CUP | {"mask": "cup.png"}, "has an invalid mask: give"),
        (CUP | {"mask": {"png": 5}}, "has an invalid mask"),
        (CUP | {"mask": None}, r"has an invalid mask: .* or \[\] if nothing"),
        (CUP | {"mask": [CUP["mask"], []]}, "has an invalid mask"),
        (CUP | {"mask": [CUP["mask"], {"png": "no.png"}]}, r"line 2: the mask .*no\.png is missing: check its path"),
        ({"image": "desk.jpg", "expression": "the left cup"}, "has no mask: image, expression and mask are required"),
        (CUP | {"ref_id": 7}, "unknown field 'ref_id'"),
        (CUP | {"mask": {"png": "no.png"}}, r"line 2: the mask .*no\.png is missing: check its path"),
    ],
)
def test_mistakes_are_named_by_line_or_left_out_and_counted(directory, wrong, message):
    with pytest.raises(UserError, match=message) as caught:
        _read(directory, LAMP, wrong, LAMP | {"expression": "lamp"})
    assert f"{directory}/own.jsonl: line 2" in str(caught.value)
    dataset = _read(directory, LAMP, wrong, LAMP | {"expression": "lamp"}, skip=True)
    assert [s.text for r in dataset.referents for s in r.sentences] == ["the lamp", "lamp"]
    assert [(problem.message, problem.expressions) for problem in dataset.problems] == [(str(caught.value), 1)]


def test_images_that_are_missing_or_damaged_are_named_and_counted(directory):
    (directory / "room.png").write_bytes(b"no image")
    lines = [
        CUP | {"image": "none.jpg"},
        CUP | {"image": "none.jpg", "expression": "cup"},
        LAMP | {"image": "room.png"},
    ]
    with pytest.raises(UserError, match=r"none\.jpg cannot be read"):
        _read(directory, CUP, *lines)
    with pytest.raises(UserError, match=r"room\.png is not an image"):
        _read(directory, CUP, lines[2])
    dataset = _read(directory, CUP, *lines, skip=True)
    assert [(problem.kind, problem.name, problem.referents, problem.expressions) for problem in dataset.problems] == [
        ("image", str(directory / "none.jpg"), 1, 2),
        ("image", str(directory / "room.png"), 1, 1),
    ]
    assert list(dataset.images) == [1]


def test_an_expression_without_a_word_is_left_out_and_counted(directory):
    dataset = _read(directory, CUP, CUP | {"expression": " "}, CUP | {"expression": "!!!"})
    assert [(problem.name, problem.expressions) for problem in dataset.problems] == [("line 2", 1), ("line 3", 1)]


def test_masks_that_do_not_fit_are_named_by_line(directory):
    dataset = _read(directory, CUP | {"image": "room.png"}, LAMP | {"mask": {"size": [9, 9], "counts": [81]}})
    with pytest.raises(UserError, match=r"own\.jsonl: line 1: the mask .*cup\.png is 40 x 60 pixels"):
        dataset.mask(1)
    with pytest.raises(
        UserError, match=r"own\.jsonl: line 2 has an invalid mask .size \[9, 9\] for an image of 40 x 60"
    ):
        dataset.mask(2)


def test_a_file_without_a_line_is_refused(directory):
    for lines in ([], [""], ["{"]):
        with pytest.raises(UserError, match=r"own\.jsonl has no usable line.*write lines such as"):
            _read(directory, *lines, skip=True)
    with pytest.raises(UserError, match=r"none\.jsonl cannot be read.*give a file of JSON Lines"):
        read_json_lines(directory / "none.jsonl", directory)
