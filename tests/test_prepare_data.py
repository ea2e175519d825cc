"""prepare_data.py from its arguments to its files."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

import prepare_data
from coupalign.config import load_config
from coupalign.data.dataset import Split
from tests.handmade_refer import rectangle

REFSHAPES = ["--dataset", "refshapes", "--max_tokens", "20", "--seed", "4", "--expressions", "30", "--workers", "1"]


def _state(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(directory)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_a_refer_data_set_becomes_mindrecord_files_which_are_kept(prepare_arguments, tmp_path, capsys):
    assert prepare_data.main(prepare_arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["split", "images", "referents", "expressions"],
        ["train", "1", "2", "3"],
        ["val", "1", "1", "3"],
    ]
    data = tmp_path / "data"
    assert {path.name for path in data.iterdir()} == {
        f"{split}.{part}.{end}"
        for split in ("train", "val")
        for part in ("images", "objects", "masks", "expressions")
        for end in ("mindrecord", "mindrecord.db")
    } | {"meta.json", "skipped.jsonl"}
    meta = json.loads((data / "meta.json").read_text())
    assert (meta["dataset"], meta["max_tokens"]) == ("refcoco", 30)
    config = load_config(overrides={"data_dir": str(data)})
    assert [len(Split(config, split)) for split in meta["splits"]] == [3, 3]
    before = _state(data)
    assert prepare_data.main(prepare_arguments) == 0
    assert "complete already" in capsys.readouterr().out and _state(data) == before


def _other_words(arguments, handmade, data):
    handmade.refs[0]["sentences"][0]["sent"] = "the other cup"
    handmade.write()


def _other_mask(arguments, handmade, data):
    handmade.instances["annotations"][0]["segmentation"][0][0] += 1
    handmade.write()


def _other_picture(arguments, handmade, data):
    """The same size, and the same time of modification."""
    path = handmade.images / "b.png"
    before, picture = path.stat(), 255 - cv2.imread(str(path))
    cv2.imwrite(str(path), picture, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


@pytest.mark.parametrize(
    "change",
    [
        lambda arguments, *_: arguments.extend(["--max_tokens", "31"]),
        _other_words,
        _other_mask,
        _other_picture,
        lambda *given: (given[2] / "val.masks.mindrecord").unlink(),
        lambda *given: os.truncate(given[2] / "val.images.mindrecord", 1000),
    ],
)
def test_changed_sources_and_settings_are_prepared_again(prepare_arguments, handmade, tmp_path, capsys, change):
    picture = cv2.imread(str(handmade.images / "b.png"))
    cv2.imwrite(str(handmade.images / "b.png"), picture, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    prepare_data.main(prepare_arguments)
    before = _state(tmp_path / "data")
    change(prepare_arguments, handmade, tmp_path / "data")
    assert prepare_data.main(prepare_arguments) == 0
    assert "written" in capsys.readouterr().out.splitlines()[-1]
    after = _state(tmp_path / "data")
    assert after.keys() == before.keys()
    assert all(after[name][0] != before[name][0] for name in before)


def test_check_compares_with_the_published_counts_and_writes_nothing(prepare_arguments, tmp_path, monkeypatch, capsys):
    assert prepare_data.main([*prepare_arguments, "--check"]) == 1
    out = capsys.readouterr().out
    assert "train: 1 images, 16,993 fewer than published, 2 referents" in out
    assert "testA: 0 images, 750 fewer than published" in out
    published = {("refcoco", "unc"): {"train": (1, 2, 3), "val": (1, 1, 3)}}
    monkeypatch.setattr("coupalign.data.published.PUBLISHED", published)
    assert prepare_data.main([*prepare_arguments, "--check"]) == 0
    assert not (tmp_path / "data").exists()


def test_check_lists_what_is_missing_and_where_to_get_it(prepare_arguments, handmade, tmp_path, capsys):
    (handmade.images / "a.jpg").unlink()
    assert prepare_data.main([*prepare_arguments, "--check"]) == 1
    out = capsys.readouterr().out
    assert "a.jpg is missing" in out and "train2014.zip" in out and "refcoco.zip" in out
    assert "val: 1 images" in out
    (handmade.annotations / "instances.json").unlink()
    assert prepare_data.main([*prepare_arguments, "--check"]) == 1
    assert "instances.json is missing: " in capsys.readouterr().out
    assert prepare_data.main(["--dataset", "refcocog", "--check"]) == 1
    out = capsys.readouterr().out
    assert "give --annotations and --images" in out
    assert "train2014.zip" in out


def test_expressions_without_a_word_are_left_out_and_counted(prepare_arguments, handmade, capsys):
    handmade.refs[2]["sentences"][0].update(sent="!!!", raw="")
    handmade.refs[2]["sentences"][1].update(sent="wmn " * 20)
    handmade.write()
    assert prepare_data.main(prepare_arguments) == 0
    out = capsys.readouterr().out
    assert "left out: 1 x empty expression; with them 0 referents and 1 expressions" in out
    assert "truncated: 1 expressions" in out
    assert "unknown words: 1 expressions, most often wmn" in out
    assert ["val", "1", "1", "2"] in [line.split() for line in out.splitlines()]


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.txt"])
def test_a_custom_data_set_becomes_mindrecord_files(handmade, tmp_path, capsys, name):
    file = tmp_path / name
    cv2.imwrite(str(tmp_path / "dog.png"), handmade.masks[4].astype(np.uint8))
    lines = [
        {"image": "b.png", "expression": "the dog", "mask": {"png": "dog.png"}},
        {"image": "a.jpg", "expression": "a cup", "mask": [rectangle(10, 5, 30, 15)], "split": "val"},
    ]
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    own = ["--dataset", "mine", "--annotations", str(file), "--images", str(handmade.images)]
    own += ["--output", str(tmp_path / "data")]
    assert prepare_data.main([*own, "--check"]) == 0
    assert prepare_data.main(own) == 0
    config = load_config(overrides={"dataset": "mine", "data_dir": str(tmp_path / "data")})
    for split, name, ann_id, expression in (("train", "b.png", 4, "the dog"), ("val", "a.jpg", 1, "a cup")):
        data = Split(config, split)
        assert data.records["expression"].tolist() == [expression]
        (picture,) = data.pictures([0], 1)
        np.testing.assert_array_equal(picture["image"], cv2.imread(str(handmade.images / name))[..., ::-1])
        np.testing.assert_array_equal(picture["target"], handmade.masks[ann_id])
    # Another mask under the same name is another data set.
    cv2.imwrite(str(tmp_path / "dog.png"), np.eye(50, 30, dtype=np.uint8))
    capsys.readouterr()
    assert prepare_data.main(own) == 0
    assert "written" in capsys.readouterr().out
    file.write_text(file.read_text() + "{\n")
    assert prepare_data.main([*own, "--check"]) == 1
    assert "line 3" in capsys.readouterr().out


def test_refshapes_is_made_once_and_read_like_a_refer_data_set(tmp_path, capsys):
    output = tmp_path / "shapes"
    assert prepare_data.main([*REFSHAPES, "--data_dir", str(output)]) == 0  # instead of --output
    counts = {line.split()[0]: line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:5]}
    assert counts == {"train": "30", "val": "3", "testA": "3", "testB": "3"}
    refs = pickle.loads((output / "source/refs(refshapes).p").read_bytes())
    config = load_config(overrides={"dataset": "refshapes", "data_dir": str(output), "max_tokens": 20})
    for split in counts:
        expected = [sentence["sent"] for ref in refs if ref["split"] == split for sentence in ref["sentences"]]
        assert Split(config, split).records["expression"].tolist() == expected
    source = _state(output / "source")
    assert prepare_data.main([*REFSHAPES, "--max_tokens", "21", "--output", str(output)]) == 0
    assert _state(output / "source") == source
    assert prepare_data.main([*REFSHAPES, "--output", str(output), "--check"]) == 0


def test_skipped_data_are_listed_and_counted(prepare_arguments, handmade, tmp_path, capsys):
    handmade.refs.append(handmade.ref(23, 1, 7, 1, "val", {230: "the cup"}))
    handmade.write()
    (handmade.images / "b.png").write_bytes(b"no image")
    assert prepare_data.main(prepare_arguments) == 2
    assert "b.png is not an image" in capsys.readouterr().err
    for _ in range(2):  # made, and found complete
        assert prepare_data.main([*prepare_arguments, "--on_error", "skip"]) == 0
        out = capsys.readouterr().out
        assert "left out: 1 x image; with them 1 referents and 3 expressions" in out
        assert ["val", "1", "1", "1"] in [line.split() for line in out.splitlines()]
    (problem,) = [json.loads(line) for line in (tmp_path / "data/skipped.jsonl").read_text().splitlines()]
    assert (problem["kind"], problem["name"]) == ("image", str(handmade.images / "b.png"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["--dataset", "coco", "--annotations", ".", "--images", "."],
            "no data set 'coco' in the layout of the REFER tool: --dataset is one of refcoco, refcoco+, refcocog, referit",
        ),
        (["--dataset", "coco"], "coco is read from disk: give --annotations"),
        (["--dataset", "refcoco", "--annotations", "."], "give --images"),
        (["--dataset", "mine", "--annotations", "x.jsonl"], "no file or directory x.jsonl: check --annotations"),
        (
            ["--dataset", "refcoco+", "--split_by", "umd", "--annotations", ".", "--images", "."],
            "refcoco+ has no splits by 'umd': --split_by is one of unc",
        ),
        (
            ["--dataset", "refcocog", "--annotations", "nowhere", "--images", "."],
            "no file or directory nowhere: check --annotations",
        ),
        (["--dataset", "refshapes", "--images", "."], "RefShapes is made, not read"),
        (["--dataset", "refshapes", "--expressions", "5"], "raise --expressions"),
        (["--dataset", "refshapes", "--check"], "holds no RefShapes data set: run prepare_data.py without --check"),
        (["--dataset", "refshapes", "--vocab_file", "none.txt"], "none.txt"),
    ],
)
def test_mistakes_are_one_line_that_names_the_remedy(tmp_path, refuses, given, message):
    arguments = [*given, "--output", str(tmp_path / "data"), "--workers", "1"]
    if "--expressions" not in given:
        arguments += ["--expressions", "10"]
    assert message in refuses(prepare_data.main, arguments)
