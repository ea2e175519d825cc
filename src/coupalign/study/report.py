"""The report of a study: results.csv, with every row, seed, split and family, and results.md."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.stats import ttest_ind

from coupalign.config import load_config
from coupalign.errors import UserError
from coupalign.files import write_text
from coupalign.study.plan import METRICS, Run, Study
from coupalign.study.runner import DONE, read_starts
from coupalign.visual.evaluations import Evaluation, dataset_name, read_evaluation
from coupalign.visual.failures import RANGES, Row, as_markdown, markdown_table

FEWEST_SEEDS = 3
CONFIDENCE = 0.95
_OF_RUN = ("parameters", "steps", "samples", "training_seconds", "evaluation_seconds")
_COMPUTE = (*_OF_RUN, "seconds", "processor_seconds")
_HEADER = ("row", "seed", "split", "family", "n", *METRICS, *(f"IoU in {each}" for each in RANGES), *_COMPUTE)
_SHOWN = ("oIoU", "mIoU", "prec@0.5")
_ORDERED_BY = ("oIoU", "mIoU")  # the first one of which the paper has figures


@dataclass(frozen=True)
class Found:
    """A run that is done."""

    run: Run
    evaluations: dict[str, Evaluation]  # by split
    compute: dict[str, float]  # by name, as in the last columns of results.csv
    alignment: list[dict[str, str]]  # rows of its alignment.csv, as text

    def metrics(self, split: str, family: str) -> dict[str, Any]:
        """Metrics of a family of expressions ("" is all). Raises: UserError if the run has no such split or family."""
        if split not in self.evaluations:
            raise UserError(f"{self.run} was not evaluated on {split}, only on {', '.join(self.evaluations)}")
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

    Raises: UserError if files of a run are missing or damaged, or runs used different data.
    """
    found = _read_found(study, output)
    paths = [Path(output, "results.csv"), Path(output, "results.md")]
    write_text(paths[0], _csv(found))
    write_text(paths[1], _markdown(study, found))
    return paths


def _read_found(study: Study, output: str | Path) -> list[Found]:
    found = []
    data: dict[str, Any] = {}
    for run in study.runs():
        directory = Path(output, run.row, str(run.seed))
        if not (directory / DONE).exists():
            continue
        try:
            done = json.loads((directory / DONE).read_text(encoding="utf-8"))
            with open(directory / "alignment.csv", newline="", encoding="utf-8") as file:
                alignment = list(csv.DictReader(file))
            compute = dict(zip(_COMPUTE, (*(done[name] for name in _OF_RUN), *read_starts(directory))))
            data.setdefault(done["data"], run)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{directory} is damaged ({error}): remove it, and run the study again") from error
        splits = load_config(directory / "config.yaml").evaluation.eval_splits
        evaluations = {split: read_evaluation(directory / "eval" / f"{split}.json") for split in splits}
        found.append(Found(run, evaluations, compute, alignment))
    if len(data) > 1:
        first, other, *_ = data.values()
        raise UserError(f"{output}: runs {first} and {other} used different data: remove one of them")
    return found


def _csv(found: Sequence[Found]) -> str:
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(_HEADER)
    for each in found:
        for split, evaluation in each.evaluations.items():
            for family in ("", *evaluation.content["families"]):
                metrics = each.metrics(split, family)
                head = [each.run.row, each.run.seed, split, family or "all", metrics["samples"]]
                figures = [*(f"{metrics[name]:.6f}" for name in METRICS), *metrics["histogram"]]
                table.writerow([*head, *figures, *each.compute.values()])
    return text.getvalue()


def _markdown(study: Study, found: Sequence[Found]) -> str:
    lines = [f"# Study {study.path.stem}", "", f"{len(found)} of {len(study.runs())} runs are done."]
    if not found:
        return "\n".join([*lines, ""])
    content = found[0].evaluations[study.split].content
    families = ", ".join(load_config(overrides=content["config"]).training.train_families)
    shown = f"{study.split}, {f'the family {study.family}' if study.family else 'all expressions'}"
    lines += [
        f"Data: {dataset_name(content['dataset'])}. Trained on the families {families}. Tables show {shown}; "
        f"{content['protocol']}. Figures in per cent: mean ± standard deviation over seeds (lowest-highest).",
        "",
        f"A row differs from {study.reference!r} if the {100 * CONFIDENCE:.0f} % confidence interval of the difference "
        f"(Welch's t test, at least {FEWEST_SEEDS} seeds of both) does not contain 0. There is one test per row, not "
        "corrected for their number. With one seed, even a large difference may be chance.",
        "",
    ]
    for table in study.tables.values():
        lines += [f"## {table['title']}", "", *_table(study, table, found), ""]
    total = {name: sum(each.compute[name] for each in found) for name in _COMPUTE}
    return "\n".join(
        [
            *lines,
            *_failures(study, found),
            *_alignment(found),
            "## Compute",
            "",
            f"{len(found)} runs: {total['steps']:,.0f} steps, {total['samples']:,.0f} samples. All starts of these runs, "
            f"including stopped and failed ones, took {total['seconds'] / 3600:.2f} hours and "
            f"{total['processor_seconds'] / 3600:.2f} hours of processor time, training and evaluation together.",
            "",
        ]
    )


def _table(study: Study, table: Mapping[str, Any], found: Sequence[Found]) -> list[str]:
    def values(row: str, metric: str) -> list[float]:
        runs = [each for each in found if each.run.row == row and each.run.seed in table["seeds"]]
        return [each.metrics(study.split, study.family)[metric] for each in runs]

    papers = {row: entry["paper"] for row, entry in table["rows"].items()}
    in_paper = [name for name in _ORDERED_BY if any(name in paper for paper in papers.values())]
    metric = next((name for name in in_paper if all(name in paper for paper in papers.values())), _ORDERED_BY[0])
    reference = values(study.reference, metric)
    rows = []
    for row, entry in table["rows"].items():
        seeds = values(row, metric)
        cells = [_mean(values(row, name)) for name in _SHOWN]
        paper = [f"{papers[row][name]:.2f}" if name in papers[row] else "" for name in in_paper]
        compared = ["", "reference"] if row == study.reference else _compared(seeds, reference)
        rows.append([entry["label"], row, str(len(seeds)), *cells, *paper, *compared])
    header = ["row", "", "seeds", *_SHOWN, *(f"paper's {name}" for name in in_paper)]
    lines = markdown_table([*header, f"{metric} minus {study.reference!r}", "different?"], rows)
    published = {row: paper[metric] for row, paper in papers.items() if metric in paper and values(row, metric)}
    return lines + _order({row: values(row, metric) for row in published}, published, metric)


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


def _order(values: Mapping[str, Sequence[float]], paper: Mapping[str, float], metric: str) -> list[str]:
    """How many pairs of rows are in the paper's order, by their means and where the intervals tell them apart."""
    pairs = [
        sorted(pair, key=paper.__getitem__) for pair in combinations(values, 2) if paper[pair[0]] != paper[pair[1]]
    ]
    if not pairs:
        return []
    found = [difference(values[high], values[low]) for low, high in pairs]
    same = sum(interval is not None and interval[0] > 0 for _, interval in found)
    other = sum(interval is not None and interval[1] < 0 for _, interval in found)
    return [
        "",
        f"Order by {metric}: of {len(pairs)} pairs of rows, {sum(mean > 0 for mean, _ in found)} have the paper's order "
        f"by their means. The confidence intervals separate {same + other} pairs: {same} in the paper's order, {other} "
        "in the opposite order.",
    ]


def _failures(study: Study, found: Sequence[Found]) -> list[str]:
    """Failures by range of IoU of each run, and of each row over all its seeds."""
    rows = []
    for name in study.failures:
        runs = [each for each in found if each.run.row == name]
        metrics = [each.metrics(study.split, study.family) for each in runs]
        rows += [Row(str(each.run), found["samples"], found["histogram"]) for each, found in zip(runs, metrics)]
        if len(metrics) > 1:
            counts = [sum(each) for each in zip(*(each["histogram"] for each in metrics))]
            rows.append(Row(f"{name}, all seeds", sum(each["samples"] for each in metrics), counts))
    about = [f"{study.split}, {study.family or 'all families'}."]
    return ["## Failures by IoU (Table 2)", "", as_markdown(rows, about)] if rows else []


def _alignment(found: Sequence[Found]) -> list[str]:
    """Q_w and the gates of each run, at its first and its last checkpoint."""

    def change(each: Found, names: Sequence[str], digits: int) -> str:
        ends = each.alignment[0], each.alignment[-1]
        texts = [" ".join(f"{float(row[name]):.{digits}f}" if row[name] else "–" for name in names) for row in ends]
        return " → ".join(texts) if any(ends[1][name] for name in names) else "–"

    header = ["run", "steps", "entropy", "largest weight", "gates to pixels", "gates to words"]
    gates = [[f"{kind}_gate_{stage}" for stage in range(1, 5)] for kind in ("image", "text")]
    columns = [(["step"], 0), (["entropy"], 4), (["largest_weight"], 4), *((names, 2) for names in gates)]
    rows = [[str(each.run), *(change(each, *column) for column in columns)] for each in found]
    return [
        "## Q_w and gates over training",
        "",
        "Entropy of Q_w over log N (1: all masks have the same weight), its largest weight, and the mean openings of the "
        "gates at stages 1 to 4, at the first checkpoint and at the end.",
        "",
        *markdown_table(header, rows),
        "",
    ]
