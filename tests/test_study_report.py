"""Statistics over seeds and the report of a study."""

from __future__ import annotations

import numpy as np
import pytest

import study as program
from coupalign.errors import UserError
from coupalign.files import REPOSITORY
from coupalign.study.plan import read_study
from coupalign.study.report import difference, write_results
from tests.conftest import read_csv
from tests.study_runs import SMALL, leave_results, write


@pytest.fixture
def small(tmp_path):
    return read_study(write(tmp_path, SMALL))


@pytest.mark.parametrize(
    ("values", "reference", "interval"),
    [
        # Means 2 and 7, variances 1; 2.776 is Student's t for 4 degrees of freedom: 5 ± 2.776 sqrt(2/3).
        ([1, 2, 3], [6, 7, 8], (-5 - 2.2668, -5 + 2.2668)),
        ([1, 2, 3], [3, 4, 5], (-2 - 2.2668, -2 + 2.2668)),
        # Variances 1 and 13: 2.306 degrees of freedom, t 3.799, and a standard error of sqrt(14/3).
        ([1, 2, 3], [6, 8, 13], (-7 - 8.2077, -7 + 8.2077)),
        ([2, 2, 2], [3, 3, 3], (-1, -1)),
        ([1, 1.01], [9, 9.01], None),
        ([1], [9], None),
    ],
)
def test_welchs_interval_by_hand(values, reference, interval):
    mean, found = difference(values, reference)
    assert mean == pytest.approx(np.mean(values) - np.mean(reference))
    assert found == (interval and pytest.approx(interval, abs=1e-3))


ATTRIBUTE = {
    "full/1": [(8, 10), (2, 10)],
    "full/2": [(9, 10), (1, 10)],
    "full/3": [(9, 10), (2, 10)],
    "uni/1": [(3, 10), (2, 10)],
    "uni/2": [(3, 10), (1, 10)],
    "uni/3": [(2, 10), (2, 10)],
    "wide/1": [(9, 9), (9, 9)],
}


@pytest.fixture
def reported(small, tmp_path):
    for run in small.runs():
        config = small.config(run, tmp_path)
        leave_results(config, ATTRIBUTE[str(run)])
    write_results(small, tmp_path)
    return (tmp_path / "results.md").read_text()


def cells(text, title, first):
    """Cells of the row that begins with `first` in the part with that title."""
    part = text.split(f"## {title}")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if "|" in line]
    return next(row for row in rows if row[0] == first)


def test_a_table_shows_means_spread_and_the_papers_figure(reported):
    # oIoU of the three seeds .5, .5, .55 and .25, .2, .2; Welch by hand: variances 1/1200 each, 4 degrees of freedom.
    row = cells(reported, "Four", "one way")
    assert row[:4] == ["one way", "uni", "3", "21.67 ± 2.89 (20.00-25.00)"]
    assert row[6:] == ["72.70", "-30.00 (-36.54 to -23.46)", "lower"]
    assert cells(reported, "Four", "all")[3] == "51.67 ± 2.89 (50.00-55.00)"
    assert "70 steps, 1,120 samples and 0.14 hours" in reported


def test_one_seed_proves_nothing_however_good(reported):
    row = cells(reported, "Ours", "wider")
    assert row[2:4] == ["1", "100.00"] and row[-2:] == ["+50.00", "too few seeds"]


def test_the_csv_has_a_line_for_each_row_seed_split_and_family(reported, tmp_path):
    lines = read_csv(tmp_path / "results.csv")
    assert len(lines) == 7 * 3
    (line,) = [each for each in lines if (each["row"], each["seed"], each["family"]) == ("uni", "2", "attribute")]
    assert float(line["oIoU"]) == 0.2 and float(line["mIoU"]) == 0.2 and line["n"] == "2"
    assert [line[f"IoU in {each}"] for each in ("[0,0.1)", "[0.1,0.2)", "[0.3,0.4)")] == ["0", "1", "1"]
    assert (line["step"], line["samples"], line["seconds"]) == ("10.0", "160.0", "72.0")


def test_tables_alone_train_nothing(small, tmp_path, capsys):
    output = tmp_path / "out"
    leave_results(small.config(small.runs()[0], output), [(1, 2)])
    assert program.main(["--study", str(small.path), "--output_dir", str(output), "--tables_only"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{output}/results.csv", f"{output}/results.md"]
    text = (output / "results.md").read_text()
    assert cells(text, "Four", "one way")[-1] == "the reference is not run"
    assert cells(text, "Ours", "wider")[-1] == "not run"
    assert sorted(path.name for path in output.iterdir()) == ["results.csv", "results.md", "uni"]


def test_runs_of_different_data_are_refused(small, tmp_path):
    for run, baseline in zip(small.runs(), (1, 0)):
        leave_results(small.config(run, tmp_path), [(1, 2)], baseline)
    with pytest.raises(UserError, match="runs uni/1 and full/1 used different data"):
        write_results(small, tmp_path)


def test_the_documents_table_is_what_the_kept_report_has():
    """docs/study.md against docs/study/refshapes.csv, row by row."""
    lines = read_csv(REPOSITORY / "docs/study/refshapes.csv")
    found = [line for line in lines if (line["split"], line["family"]) == ("val", "attribute")]
    names = {
        "no WPA": "no-wpa",
        "no auxiliary loss": "no-aux",
        "no SMA": "no-sma",
        "WPA from language to image": "uni",
        "all": "full",
    }
    text = (REPOSITORY / "docs/study.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    said = {row[0]: row[1:4] for row in rows if row[0] in names}
    assert set(said) == set(names)
    for label, cells in said.items():
        for metric, cell in zip(("oIoU", "mIoU", "prec@0.5"), cells, strict=True):
            values = [100 * float(line[metric]) for line in found if line["row"] == names[label]]
            assert len(values) == 3
            assert cell == f"{np.mean(values):.1f} ({min(values):.1f}-{max(values):.1f})"
