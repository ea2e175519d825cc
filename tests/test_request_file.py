"""Files of expressions for predict.py, with a stand-in for the model."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

import predict as program
from coupalign.overlay import write_png
from tests.conftest import noise
from tests.test_predict import one_predictor, run  # noqa: F401  (`one_predictor` is a fixture)


def test_a_file_of_expressions_with_and_without_images(one_predictor, checkpoint, tmp_path, capfd):  # noqa: F811
    """One image is missing. Without images in the file, all images of the directory are asked."""
    for name in ("in/a.png", "in/deep/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_png(tmp_path / name, noise(20, 30))
    rows = [("a.png", "cup"), ("none.png", "cup"), ("deep/b.png", "x, y"), ("a.png", "the dog"), ("a.png", "cup")]
    lines = [json.dumps({"image": image, "expression": text, "mask": 1}) for image, text in rows]
    (tmp_path / "in/list.jsonl").write_text("\n\n".join(lines), encoding="utf-8-sig")
    table = "".join(f'{image},1,"{text}"\r\n' for image, text in rows)
    (tmp_path / "list.csv").write_text("image,id,expression\r\n\r\n" + table, encoding="utf-8-sig")
    table = "".join(f"{image}\t{text}\n" for image, text in rows)
    (tmp_path / "tabs.csv").write_text("image\texpression\n" + table)
    (tmp_path / "words.csv").write_text("expression\ncup\n")
    arguments = ["--checkpoint", checkpoint, "--output", tmp_path / "out"]

    def found(*more, status):
        assert run(*arguments, *more) == status
        out = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
        return [(os.path.relpath(line["image"], tmp_path / "in"), line.get("expression")) for line in out]

    expected = sorted([("a.png", "cup"), ("a.png", "the dog"), ("none.png", None), ("deep/b.png", "x, y")], key=str)
    assert sorted(found("--expressions", tmp_path / "in/list.jsonl", status=2), key=str) == expected
    for name in ("list.csv", "tabs.csv"):
        csv = ("--image", tmp_path / "in", "--expressions", tmp_path / name)
        assert sorted(found(*csv, status=2), key=str) == expected
    assert found("--image", tmp_path / "in", "--expressions", tmp_path / "words.csv", status=0) == [("a.png", "cup")]


@pytest.mark.parametrize(
    ("name", "content", "more", "message"),
    [
        ("a.jsonl", '{"image": "a.png"}', [], "a.jsonl line 1: expected an expression"),
        ("a.jsonl", '\n{"expression": "a \\ud800"}', [], "a.jsonl line 2: expected an expression"),
        ("a.jsonl", "x", [], "a.jsonl line 1: not JSON"),
        ("a.jsonl", '{"expression": "!"}', [], "a.jsonl line 1: .* no word"),
        ("a.jsonl", '{"expression": "x"}\n{"image": "a.png", "expression": "x"}', [], "line 2: either every"),
        ("a.jsonl", "", [], "no expressions"),
        ("a.csv", "text\nx\n", [], "line 1: expected names of columns"),
        ("a.csv", 'expression\n"x\n', [], "line 2: not a row of CSV"),
        ("a.csv", "expression\nthe cup, on the left\n", [], "line 2: 2 values for 1 columns: .* quotes"),
        ("a.csv", "image,expression\nthe cup\n", [], "line 2: 1 values for 2 columns: .* may be empty"),
        ("a.csv", "expression,expression\nx,y\n", [], "line 1: two columns have one name"),
        ("a.txt", "x", [], "jsonl"),
        ("a.csv", "image,expression\na.png,x\n", ["--image", "b.png"], "directory alone"),
        ("a.csv", "expression\nx\n", ["--expression", "x"], "either"),
        ("a.csv", "expression\nx\n", [], "--image"),
    ],
)
def test_invalid_files_of_expressions(checkpoint, tmp_path, monkeypatch, refuses, name, content, more, message):
    monkeypatch.chdir(tmp_path)
    write_png("b.png", noise(20, 30))
    Path(name).write_text(content)
    line = refuses(program.main, ["--checkpoint", checkpoint, "--expressions", name, *more])
    assert re.search(message, line), line
