"""The failure table against the paper's numbers, and the heights of its bars."""

from __future__ import annotations

import json

import numpy as np
import pytest

import visualise
from coupalign.visual.evaluations import read_evaluation
from coupalign.visual.failures import draw_failures, failure_rows, protocols
from coupalign.visual.figures import pixels

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


def test_the_papers_table(two, tmp_path, capsys):
    output = tmp_path / "out"
    assert (
        visualise.main(["failures", *two, "--name", "CoupAlign, ours", "--name", "LAVT", "--output", str(output)]) == 0
    )
    for text in (capsys.readouterr().out, (output / "failures.md").read_text(encoding="utf-8")):
        rows = [[cell.strip().split(" (")[0] for cell in line.split("|")[1:-1]] for line in text.splitlines()[:4]]
        assert rows[0][2:7] == ["[0,0.1)", "[0.1,0.2)", "[0.2,0.3)", "[0.3,0.4)", "[0.4,0.5)"]
        assert rows[2] == ["CoupAlign, ours", "3,811", *map(str, OURS), "518"]
        assert rows[3] == ["LAVT", "3,811", *map(str, LAVT), "632"]
        assert "518 (13.6 %)" in text and "271 (7.1 %)" in text and "compare with care" not in text
    assert (output / "failures.png").stat().st_size > 5000


def test_names_tell_evaluations_apart(two, tmp_path):
    other = evaluation(tmp_path / "ours/eval/testA.json", OURS, split="testA", dataset="refshapes")
    evaluations = [read_evaluation(path) for path in (*two, other)]
    assert [row.name for row in failure_rows(evaluations)] == [
        "refcoco val, ours/eval/val.json",
        "refcoco val, lavt/eval/val.json",
        "refshapes (synthetic) testA, ours/eval/testA.json",
    ]
    assert [row.name for row in failure_rows(evaluations[1:])] == ["refcoco val", "refshapes (synthetic) testA"]


@pytest.mark.parametrize(
    "change", [{"samples": 3000}, {"protocol": "all"}, {"split": "testA"}, {"dataset": "refcoco+"}]
)
def test_what_cannot_be_compared_is_said(two, tmp_path, change):
    other = read_evaluation(evaluation(tmp_path / "c.json", OURS, **change))
    alike = [read_evaluation(path) for path in two]
    assert "compare with care" in " ".join(protocols([*alike, other]))
    assert protocols(alike) == ["refcoco val: first."]


def test_bars_are_as_high_as_shares(tmp_path):
    paths = [
        evaluation(tmp_path / "a.json", [100, 50, 0, 20, 400], 1000, split="a"),
        evaluation(tmp_path / "b.json", [50, 100, 1, 0, 10], 500, split="b"),
    ]
    figure = draw_failures(failure_rows([read_evaluation(path) for path in paths]), [])
    heights = [[bar.get_height() for bar in bars] for bars in figure.axes[0].containers]
    np.testing.assert_allclose(heights, [[0.1, 0.05, 0, 0.02, 0.4], [0.1, 0.2, 0.002, 0, 0.02]])
    assert {"400", "1"} <= {text.get_text() for text in figure.axes[0].texts}


@pytest.mark.parametrize("counts", [[12345, 5, 0, 7, 12345], [0] * 5])
def test_many_evaluations_and_none_without_failures_can_be_drawn(tmp_path, counts):
    paths = [evaluation(tmp_path / f"{k}/{'long ' * 30}.json", counts, 25000) for k in range(6)]
    evaluations = [read_evaluation(path) for path in paths]
    assert np.ptp(pixels(draw_failures(failure_rows(evaluations), protocols(evaluations)))) == 255


def test_files_go_beside_the_first_evaluation(two, tmp_path, monkeypatch, capsys):
    working = tmp_path / "elsewhere"
    working.mkdir()
    monkeypatch.chdir(working)
    assert visualise.main(["failures", *two]) == 0
    assert not any(working.iterdir())
    output = tmp_path / "ours/eval/failures"
    assert {path.name for path in output.iterdir()} == {"failures.png", "failures.md"}
    assert str(output) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "EVAL.json"),
        (["none.json"], "none.json cannot be read"),
        (["text.json"], "text.json cannot be read (it is not JSON)"),
        (["list.json"], "list.json is not the result"),
        (["short.json"], "short.json is not the result"),
        (["good.json", "good.json"], "given twice"),
        (["good.json", "--name", "a", "--name", "b"], "2 names for 1"),
        (["good.json", "--output", "text.json"], "text.json cannot be a directory"),
        (["good.json", "--outpt", "x"], "did you mean --output"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, monkeypatch, refuses, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.json").write_text("not what it is called")
    (tmp_path / "list.json").write_text("[1]")
    evaluation(tmp_path / "good.json", OURS)
    evaluation(tmp_path / "short.json", OURS[:4])
    assert message in refuses(visualise.main, ["failures", *arguments])
