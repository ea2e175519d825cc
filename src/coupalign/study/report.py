"""The report of a study: results.csv, with every row, seed, split and family, and results.md."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.stats import ttest_ind

from coupalign.errors import UserError
from coupalign.evaluation.result import COLUMNS
from coupalign.files import write_text
from coupalign.study.plan import Run, Study
from coupalign.study.runner import is_done
from coupalign.visual.evaluations import RANGES, Evaluation, markdown_table, read_evaluation

FEWEST_SEEDS = 3
CONFIDENCE = 0.95
_COMPUTE = ("step", "samples", "seconds")  # columns of curve.csv
_SHOWN = ("oIoU", "mIoU", "prec@0.5")
_ABOUT = f"""Figures in per cent: mean ± standard deviation over seeds (lowest-highest). A row differs from the reference
if the {100 * CONFIDENCE:.0f} % confidence interval of the difference (Welch's t test, at least {FEWEST_SEEDS} seeds of
both) does not contain 0. There is one test per row, not corrected for their number. With one seed, even a large
difference may be chance."""


@dataclass(frozen=True)
class Found:
    """A run that is done."""

    run: Run
    evaluations: dict[str, Evaluation]  # by split
    compute: dict[str, float]  # by names of _COMPUTE

    def metrics(self, split: str, family: str) -> dict[str, Any]:
        """Metrics of a family of expressions ("" is all). Raises: UserError if the run has no such family."""
        content = self.evaluations[split].content
        if family and family not in content["families"]:
            families = ", ".join(content["families"]) or "none"
            raise UserError(f"{self.evaluations[split].path} has no family {family!r}; it has {families}")
        return content["families"][family] if family else content["metrics"]


def difference(values: Sequence[float], reference: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """Difference of two means over independent seeds, with the confidence interval of Welch's t test.

    The interval is None with fewer than `FEWEST_SEEDS` values on either side.
    """
    mean = fmean(values) - fmean(reference)
    if min(len(values), len(reference)) < FEWEST_SEEDS:
        return mean, None
    if len(set(values)) == len(set(reference)) == 1:  # no variance, of which the test has no answer
        return mean, (mean, mean)
    interval = ttest_ind(values, reference, equal_var=False).confidence_interval(CONFIDENCE)
    return mean, (float(interval.low), float(interval.high))


def write_results(study: Study, output: str | Path) -> list[Path]:
    """Writes results.csv and results.md from the runs that are done. Returns their paths.

    Raises: UserError if files of a run are missing or damaged, or runs were evaluated on different data.
    """
    configs = {run: study.config(run, output) for run in study.runs()}
    found = [_read(run, Path(config.run.output_dir), study) for run, config in configs.items() if is_done(config)]
    first: dict[tuple, Found] = {}
    for each in found:
        for split, evaluation in each.evaluations.items():
            # This baseline depends on data and seed alone.
            baseline = next(iter(evaluation.content["baselines"].values()))
            other = first.setdefault((split, each.run.seed), each)
            if baseline != next(iter(other.evaluations[split].content["baselines"].values())):
                raise UserError(f"{output}: runs {other.run} and {each.run} used different data: remove one of them")
    paths = [Path(output, "results.csv"), Path(output, "results.md")]
    write_text(paths[0], _csv(found))
    write_text(paths[1], _markdown(study, found))
    return paths


def _read(run: Run, directory: Path, study: Study) -> Found:
    try:
        with open(directory / "curve.csv", newline="", encoding="utf-8") as file:
            last = list(csv.DictReader(file))[-1]
        compute = {name: float(last[name]) for name in _COMPUTE}
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise UserError(f"{directory} is damaged ({error}): remove it, and run the study again") from error
    splits = study.base["eval_splits"]
    return Found(run, {split: read_evaluation(directory / "eval" / f"{split}.json") for split in splits}, compute)


def _csv(found: Sequence[Found]) -> str:
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["row", "seed", "split", "family", "n", *COLUMNS, *(f"IoU in {each}" for each in RANGES), *_COMPUTE])
    for each in found:
        for split, evaluation in each.evaluations.items():
            for family in ("", *evaluation.content["families"]):
                metrics = each.metrics(split, family)
                head = [each.run.row, each.run.seed, split, family or "all", metrics["samples"]]
                figures = [*(f"{metrics[name]:.6f}" for name in COLUMNS), *metrics["histogram"]]
                table.writerow([*head, *figures, *each.compute.values()])
    return text.getvalue()


def _markdown(study: Study, found: Sequence[Found]) -> str:
    lines = [f"# Study {study.path.stem}", "", f"{len(found)} of {len(study.runs())} runs are done."]
    if found:
        evaluation = found[0].evaluations[study.split]
        shown = f"{evaluation.title}, {study.family or 'all expressions'}; {evaluation.content['protocol']}"
        lines += [f"Tables show {shown}. The reference is {study.reference!r}.", "", _ABOUT, ""]
        for table in study.tables.values():
            lines += [f"## {table['title']}", "", *_table(study, table, found), ""]
        steps, samples, seconds = (sum(each.compute[name] for each in found) for name in _COMPUTE)
        lines.append(f"Training took {steps:,.0f} steps, {samples:,.0f} samples and {seconds / 3600:.2f} hours in all.")
    return "\n".join([*lines, ""])


def _table(study: Study, table: Mapping[str, Any], found: Sequence[Found]) -> list[str]:
    def values(row: str, metric: str) -> list[float]:
        runs = [each for each in found if each.run.row == row and each.run.seed in table["seeds"]]
        return [each.metrics(study.split, study.family)[metric] for each in runs]

    papers = {row: entry["paper"] for row, entry in table["rows"].items()}
    in_paper = [name for name in ("oIoU", "mIoU") if any(name in paper for paper in papers.values())]
    # Rows are compared by the first metric that the paper has for all of them.
    metric = next((name for name in in_paper if all(name in paper for paper in papers.values())), "oIoU")
    reference = values(study.reference, metric)
    rows = []
    for row, entry in table["rows"].items():
        seeds = values(row, metric)
        cells = [_mean(values(row, name)) for name in _SHOWN]
        paper = [f"{papers[row][name]:.2f}" if name in papers[row] else "" for name in in_paper]
        compared = ["", "reference"] if row == study.reference else _compared(seeds, reference)
        rows.append([entry["label"], row, str(len(seeds)), *cells, *paper, *compared])
    header = ["row", "", "seeds", *_SHOWN, *(f"paper's {name}" for name in in_paper)]
    return markdown_table([*header, f"{metric} minus {study.reference!r}", "different?"], rows)


def _mean(values: Sequence[float]) -> str:
    shares = [100 * value for value in values]
    if len(shares) < 2:
        return "".join(f"{share:.2f}" for share in shares)
    return f"{fmean(shares):.2f} ± {stdev(shares):.2f} ({min(shares):.2f}-{max(shares):.2f})"


def _compared(values: Sequence[float], reference: Sequence[float]) -> list[str]:
    if not values or not reference:
        return ["", "not run" if not values else "the reference is not run"]
    mean, interval = difference(values, reference)
    if interval is None:
        return [f"{100 * mean:+.2f}", "too few seeds"]
    verdict = "lower" if interval[1] < 0 else "higher" if interval[0] > 0 else "not significant"
    return [f"{100 * mean:+.2f} ({100 * interval[0]:+.2f} to {100 * interval[1]:+.2f})", verdict]
