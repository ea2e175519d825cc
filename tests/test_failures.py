"""The failure table against the paper's own numbers, and what its bars show."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from matplotlib.colors import to_rgb

import visualise
from coupalign.visual.failures import draw_failures, failure_rows, protocols
from coupalign.visual.page import SERIES
from coupalign.visual.results import read_evaluation
from tests.visual_pages import assert_legible, texts

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
    with open(output / "failures.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header[2:7] == ["[0,0.1)", "[0.1,0.2)", "[0.2,0.3)", "[0.3,0.4)", "[0.4,0.5)"]
    assert rows == [["CoupAlign, ours", "3811", *map(str, OURS), "518"], ["LAVT", "3811", *map(str, LAVT), "632"]]
    printed = capsys.readouterr().out
    for text in (printed, (output / "failures.md").read_text()):
        assert "3,811" in text and "518 (13.6 %)" in text and "271 (7.1 %)" in text and "compare with care" not in text
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
    """Of 1,000 and of 500 samples: the same height for the same share."""
    paths = [
        evaluation(tmp_path / "a.json", [100, 50, 0, 20, 400], 1000, split="a"),
        evaluation(tmp_path / "b.json", [50, 100, 1, 0, 10], 500, split="b"),
    ]
    rows = failure_rows([read_evaluation(path) for path in paths])
    page = draw_failures(rows, [])
    assert {"400", "100", "1", "57.0 % of 1,000 samples below 0.5"} <= set(texts(page))
    pixels = assert_legible(page)
    areas = []
    for row, colour in zip(rows, SERIES):
        colour = (np.array(to_rgb(colour)) * 255).round()
        found = (np.abs(pixels.astype(int) - colour) <= 1).all(-1)[:, 60:]  # right of the legend
        heights = found.sum(0)
        starts = np.flatnonzero((heights > 0) & (np.r_[0, heights[:-1]] == 0))
        areas.append([heights[start : start + 20].max() for start in starts])
        assert len(starts) == np.count_nonzero(row.counts)
    scale = max(areas[0]) / 0.4
    assert areas[0] == pytest.approx([scale * share for share in (0.1, 0.05, 0.02, 0.4)], abs=2)
    assert areas[1] == pytest.approx([scale * share for share in (0.1, 0.2, 0.002, 0.02)], abs=2)


@pytest.mark.parametrize("number", [1, 6])
def test_the_picture_is_legible(tmp_path, number):
    paths = [evaluation(tmp_path / f"{k}/{'long ' * 30}.json", [12345, 5, 0, 7, 12345], 25000) for k in range(number)]
    evaluations = [read_evaluation(path) for path in paths]
    assert_legible(draw_failures(failure_rows(evaluations), protocols(evaluations)))


def test_no_failures_at_all(tmp_path):
    assert_legible(draw_failures(failure_rows([read_evaluation(evaluation(tmp_path / "a.json", [0] * 5))]), []))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "EVAL.json"),
        (["none.json"], "none.json cannot be read"),
        (["text.json"], "text.json is not JSON"),
        (["list.json"], "list.json is no result"),
        (["short.json"], "short.json is no result"),
        (["good.json", "good.json"], "given twice"),
        (["good.json", "--name", "a", "--name", "b"], "2 names for 1"),
        (["good.json", "--output", "text.json"], "text.json cannot be a directory"),
        (["good.json", "--outpt", "x"], "did you mean --output"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.json").write_text("not what it is called")
    (tmp_path / "list.json").write_text("[1]")
    evaluation(tmp_path / "good.json", OURS)
    evaluation(tmp_path / "short.json", OURS[:4])
    before = sorted(tmp_path.rglob("*"))
    assert visualise.main(["failures", *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert sorted(tmp_path.rglob("*")) == before


def test_help_and_unknown_subcommands(capsys):
    assert visualise.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n    {name}" in said for name in visualise.SUBCOMMANDS)
    for arguments in ([], ["galery"]):
        assert visualise.main(arguments) == 2
        assert "gallery, alignment, failures, curves" in capsys.readouterr().err
