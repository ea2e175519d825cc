"""The failure table against the paper's numbers."""

from __future__ import annotations

import json

import pytest

import visualise
from coupalign.visual.evaluations import failures_table, read_evaluation

# Table 2 of the paper; 518 failures and prec@0.5 86.40 make 3,811 samples.
OURS, LAVT = [271, 47, 44, 62, 94], [330, 43, 64, 82, 113]


def evaluation(path, counts, samples=3811, **other):
    content = {
        "dataset": "refcoco",
        "split": "val",
        "samples": samples,
        "threshold": 0.5,
        "resolution": "original",
        "protocol": "first",
        "metrics": {"histogram": counts},
        "config": {},
        **other,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path)


@pytest.fixture
def two(tmp_path):
    return [evaluation(tmp_path / "ours/eval/val.json", OURS), evaluation(tmp_path / "lavt/eval/val.json", LAVT)]


def test_the_papers_table(two, capsys):
    assert visualise.main(["failures", *two]) == 0
    text = capsys.readouterr().out
    rows = [[cell.strip().split(" (")[0] for cell in line.split("|")[1:-1]] for line in text.splitlines()[:4]]
    assert rows[0][3:8] == ["[0,0.1)", "[0.1,0.2)", "[0.2,0.3)", "[0.3,0.4)", "[0.4,0.5)"]
    assert rows[2] == [two[0], "refcoco val; first", "3,811", *map(str, OURS), "518"]
    assert rows[3] == [two[1], "refcoco val; first", "3,811", *map(str, LAVT), "632"]
    assert "518 (13.6 %)" in text and "271 (7.1 %)" in text and "compare with care" not in text


@pytest.mark.parametrize(
    "change", [{"samples": 3000}, {"protocol": "all"}, {"split": "testA"}, {"dataset": "refcoco+"}]
)
def test_what_cannot_be_compared_is_said(two, tmp_path, change):
    paths = [*two, evaluation(tmp_path / "c.json", OURS, **change)]
    assert "compare with care" in failures_table([read_evaluation(path) for path in paths])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "EVAL.json"),
        (["none.json"], "none.json cannot be read"),
        (["text.json"], "text.json cannot be read (it is not JSON)"),
        (["list.json"], "list.json is not the result"),
        (["short.json"], "short.json is not the result"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, monkeypatch, refuses, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.json").write_text("not what it is called")
    (tmp_path / "list.json").write_text("[1]")
    evaluation(tmp_path / "good.json", OURS)
    evaluation(tmp_path / "short.json", OURS[:4])
    assert message in refuses(visualise.main, ["failures", *arguments])
