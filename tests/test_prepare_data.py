"""prepare_data.py from its arguments to its files."""
from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

import prepare_data
from src.config import load_config
from src.data import prepare as prepare_module
from src.data.dataset import Split
from tests.handmade_refer import Handmade

REFSHAPES = ["--dataset", "refshapes", "--max_tokens", "20", "--seed", "4", "--expressions", "30", "--workers", "1"]


@pytest.fixture
def handmade(tmp_path) -> Handmade:
    data = Handmade(tmp_path / "source")
    data.write()
    return data


@pytest.fixture
def arguments(handmade, tmp_path) -> list[str]:
    return ["--dataset", "refcoco", "--annotations", str(handmade.annotations), "--images", str(handmade.images),
            "--output", str(tmp_path / "data")]


def _state(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path.relative_to(directory)): (path.stat().st_mtime_ns, path.read_bytes())
            for path in directory.rglob("*") if path.is_file()}


def test_refer_data_take_the_road_to_mindrecord(arguments, tmp_path, capsys):
    assert prepare_data.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["split", "images", "referents", "expressions"], ["train", "1", "2", "3"], ["val", "1", "1", "3"]]
    data = tmp_path / "data"
    assert {path.name for path in data.iterdir()} == {
        f"{split}.{end}" for split in ("train", "val") for end in ("mindrecord", "mindrecord.db", "npz")} | {"meta.json"}
    meta = json.loads((data / "meta.json").read_text())
    assert meta["dataset"] == "refcoco"
    assert meta["max_tokens"] == 30
    assert meta["splits"] == {"train": {"images": 1, "referents": 2, "expressions": 3},
                              "val": {"images": 1, "referents": 1, "expressions": 3}}
    config = load_config(overrides={"data_dir": str(data)})
    assert [len(Split(config, split)) for split in meta["splits"]] == [3, 3]


def test_what_is_complete_is_left_alone(arguments, tmp_path, capsys):
    prepare_data.main(arguments)
    before = _state(tmp_path / "data")
    capsys.readouterr()
    assert prepare_data.main(arguments) == 0
    assert "complete already" in capsys.readouterr().out
    assert _state(tmp_path / "data") == before


def _more_tokens(arguments, handmade, data):
    arguments += ["--max_tokens", "31"]


def _other_words(arguments, handmade, data):
    handmade.refs[0]["sentences"][0]["sent"] = "the other cup"
    handmade.write()


def _other_mask(arguments, handmade, data):
    handmade.instances["annotations"][0]["segmentation"][0][0] += 1
    handmade.write()


def _lost_file(arguments, handmade, data):
    (data / "val.npz").unlink()


@pytest.mark.parametrize("change", [_more_tokens, _other_words, _other_mask, _lost_file])
def test_what_changed_is_written_anew(arguments, handmade, tmp_path, capsys, change):
    prepare_data.main(arguments)
    before = _state(tmp_path / "data")
    change(arguments, handmade, tmp_path / "data")
    assert prepare_data.main(arguments) == 0
    assert "written" in capsys.readouterr().out.splitlines()[-1]
    after = _state(tmp_path / "data")
    assert after.keys() == before.keys()
    assert all(after[name][0] != before[name][0] for name in before)


def test_check_counts_and_writes_nothing(arguments, tmp_path, capsys):
    assert prepare_data.main([*arguments, "--check"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out] == ["split", "train", "val"]
    assert not (tmp_path / "data").exists()


def test_expressions_left_out_are_counted(arguments, handmade, capsys):
    handmade.refs[2]["sentences"][0].update(sent="", raw="")
    handmade.write()
    assert prepare_data.main([*arguments, "--check"]) == 0
    out = capsys.readouterr().out
    assert "1 expressions without a word were left out" in out
    assert ["val", "1", "1", "2"] in [line.split() for line in out.splitlines()]


def test_refshapes_is_made_once_and_read_by_the_same_reader(tmp_path, capsys):
    output = tmp_path / "shapes"
    assert prepare_data.main([*REFSHAPES, "--output", str(output)]) == 0
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


def test_output_defaults_to_data_dir(tmp_path):
    output = tmp_path / "there"
    assert prepare_data.main([*REFSHAPES, "--data_dir", str(output)]) == 0
    assert (output / "meta.json").is_file()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_nothing_half_made_is_taken_for_whole(arguments, tmp_path, monkeypatch, capsys, error):
    prepare_data.main(arguments)
    before = _state(tmp_path / "data")

    def failing(directory, split, dataset, tokenizer):
        (directory / f"{split}.mindrecord").write_bytes(b"half")
        raise error

    monkeypatch.setattr(prepare_module, "write_split", failing)
    status = prepare_data.main([*arguments, "--max_tokens", "31"])
    assert status == (130 if error is KeyboardInterrupt else 2)
    assert _state(tmp_path / "data") == before
    if status == 2:
        assert "No space left on device" in capsys.readouterr().err


def test_interrupted_between_old_and_new_is_no_data_set(arguments, tmp_path, monkeypatch):
    prepare_data.main(arguments)

    def interrupted(path, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        assert prepare_data.main([*arguments, "--max_tokens", "31"]) == 130
    assert not (tmp_path / "data/meta.json").exists()
    assert not [path for path in (tmp_path / "data").iterdir() if path.is_dir()]
    assert prepare_data.main([*arguments, "--max_tokens", "31"]) == 0
    assert len(Split(load_config(overrides={"data_dir": str(tmp_path / "data"), "max_tokens": 31}), "val")) == 3


@pytest.mark.parametrize(("given", "message"), [
    (["--dataset", "coco"], "no data set 'coco': --dataset is one of refcoco, refcoco+, refcocog, referit, refshapes"),
    (["--dataset", "refcoco"], "give --annotations (the directory of refs and instances.json) and --images"),
    (["--dataset", "refcoco+", "--split_by", "umd", "--annotations", ".", "--images", "."],
     "refcoco+ is not split by 'umd': --split_by is one of unc"),
    (["--dataset", "refcocog", "--annotations", "nowhere", "--images", "."], "nowhere/refs(umd).p is missing"),
    (["--dataset", "refshapes", "--images", "."], "RefShapes is made, not read"),
    (["--dataset", "refshapes", "--expressions", "5"], "raise --expressions"),
    (["--dataset", "refshapes", "--check"], "holds no RefShapes to check: leave out --check to make it"),
    (["--dataset", "refshapes", "--vocab_file", "none.txt"], "none.txt"),
])
def test_mistakes_are_one_line_that_names_the_mend(tmp_path, capsys, given, message):
    arguments = [*given, "--output", str(tmp_path / "data"), "--workers", "1"]
    if "--expressions" not in given:
        arguments += ["--expressions", "10"]
    assert prepare_data.main(arguments) == 2
    captured = capsys.readouterr()
    error = captured.err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not captured.out
    assert not (tmp_path / "data").exists()
