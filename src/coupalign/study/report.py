"""results.csv and results.md of a study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from coupalign.config import load_config
from coupalign.evaluation.result import SYNTHETIC
from coupalign.files import atomic_path
from coupalign.study.questions import about_alignment, about_failures, about_reference
from coupalign.study.results import Found, as_csv, read_found
from coupalign.study.statistics import CONFIDENCE, FEWEST_SEEDS, Difference, difference, order, spread
from coupalign.study.study_file import Study, Table
from coupalign.study.writing import markdown_table, percent, seeds_of

_SHOWN = ("oIoU", "mIoU", "prec@0.5")
_ORDERED_BY = ("oIoU", "mIoU")


def write_results(study: Study, output: str | Path) -> list[Path]:
    """Writes both from the runs that are done. Returns: their paths."""
    found = read_found(study, output)
    paths = []
    for name, text in (("results.csv", as_csv(found)), ("results.md", as_markdown(study, found))):
        paths.append(Path(output, name))
        with atomic_path(paths[-1]) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return paths


def as_markdown(study: Study, found: Sequence[Found]) -> str:
    """Tables, and what they say, for people."""
    planned = study.runs()
    lines = [f"# Study {study.path.stem}", "", f"{len(found)} of {len(planned)} runs are done."]
    if not found:
        return "\n".join([*lines, ""])
    one = found[0].evaluations[study.split]
    config = load_config(overrides=one.content["config"])
    data = config.data.dataset + ", synthetic: no figure here is about photographs" * (config.data.dataset == SYNTHETIC)
    lines += [
        f"Data: {data}. Trained on the families {', '.join(config.training.train_families)}; tables show {_of(study)}, "
        f"{one.content['protocol']}. Figures in per cent, mean ± standard deviation over seeds (lowest-highest).",
        "",
        f"A row is called different from {study.reference!r} where Welch's interval of the difference, at "
        f"{100 * CONFIDENCE:.0f} %, does not hold 0, for which there have to be {FEWEST_SEEDS} seeds of both; it is "
        "one test a row, not corrected for their number. Of one seed even a large difference may be chance.",
        "",
    ]
    for table in study.tables:
        lines += [f"## {table.title}", "", *_table(study, table, found), ""]
    lines += [
        *about_failures(study, found),
        *about_alignment(study, found),
        *about_reference(study, found),
        *_about_compute(found),
    ]
    return "\n".join(lines)


def _of(study: Study) -> str:
    return f"{study.split}, {f'the family {study.family}' if study.family else 'all expressions'}"


def _table(study: Study, table: Table, found: Sequence[Found]) -> list[str]:
    values = {
        metric: {
            entry.row: [
                each.metrics(study.split, study.family)[metric] for each in seeds_of(found, entry.row, table.seeds)
            ]
            for entry in table.entries
        }
        for metric in _SHOWN
    }
    has_paper = any(entry.paper for entry in table.entries)
    metric = next((name for name in _ORDERED_BY if all(name in entry.paper for entry in table.entries)), _ORDERED_BY[0])
    header = [
        "row",
        "",
        "seeds",
        *_SHOWN,
        *(["paper's oIoU", "paper's mIoU"] if has_paper else []),
        f"{metric} less {study.reference!r}",
        "different?",
    ]
    rows = []
    for entry in table.entries:
        seeds = values[metric][entry.row]
        paper = [f"{entry.paper[name]:.2f}" if name in entry.paper else "" for name in _ORDERED_BY] * has_paper
        if not seeds:
            rows.append([entry.label, entry.row, "0", *[""] * len(_SHOWN), *paper, "", "not run"])
            continue
        cells = [_mean(values[name][entry.row]) for name in _SHOWN]
        reference = [
            each.metrics(study.split, study.family)[metric] for each in seeds_of(found, study.reference, table.seeds)
        ]
        said = ["", "is the reference"] if entry.row == study.reference else _beside(seeds, reference)
        rows.append([entry.label, entry.row, str(len(seeds)), *cells, *paper, *said])
    return [*markdown_table(header, rows), *_about_order(table, values[metric], metric)]


def _mean(values: Sequence[float]) -> str:
    if len(values) == 1:
        return percent(values[0])
    return f"{percent(fmean(values))} ± {percent(spread(values))} ({percent(min(values))}-{percent(max(values))})"


def _beside(values: Sequence[float], reference: Sequence[float]) -> list[str]:
    if not reference:
        return ["", "the reference is not run"]
    found = difference(values, reference)
    return [f"{100 * found.mean:+.2f}{_interval(found)}", _verdict(found, min(len(values), len(reference)))]


def _interval(found: Difference) -> str:
    return f" ({100 * found.interval[0]:+.2f} to {100 * found.interval[1]:+.2f})" if found.interval else ""


def _verdict(found: Difference, seeds: int) -> str:
    if found.interval is None:
        return f"{'one seed' if seeds == 1 else f'{seeds} seeds'}: cannot tell"
    return {1: "higher", -1: "lower", 0: f"{seeds} seeds cannot tell"}[found.sign]


def _about_order(table: Table, values: dict[str, list[float]], metric: str) -> list[str]:
    paper = {entry.row: entry.paper[metric] for entry in table.entries if metric in entry.paper}
    values = {row: each for row, each in values.items() if each and row in paper}
    if len(values) < 2:
        return []
    label = {entry.row: entry.label for entry in table.entries}
    ours = sorted(values, key=lambda row: fmean(values[row]))
    theirs = sorted(values, key=lambda row: paper[row])
    found = order(values, paper)
    return [
        "",
        f"Order by {metric}, lowest first. Paper: {'; '.join(label[row] for row in theirs)}. Here: "
        f"{'; '.join(label[row] for row in ours)}. Of {found.pairs} pairs {found.agree} have the paper's order "
        f"by their means; the seeds tell {found.same + found.other} pairs apart, {found.same} of them in the "
        f"paper's order and {found.other} against it.",
    ]


def _about_compute(found: Sequence[Found]) -> list[str]:
    total = {name: sum(each.compute[name] for each in found) for name in found[0].compute}
    return [
        "## Compute",
        "",
        f"{len(found)} runs: {total['steps']:,.0f} steps, {total['samples']:,.0f} samples; all starts, stopped and "
        f"failed ones of these runs too, took {total['seconds'] / 3600:.2f} hours by the clock and "
        f"{total['processor_seconds'] / 3600:.2f} hours of processor time, training and evaluation together.",
        "",
        "One run again, <row> and <seed> as above: `python study.py --study STUDY --data_dir DATA --output_dir "
        "ELSEWHERE --only <row>/<seed>`. results.csv has every row, seed, split and family.",
        "",
    ]
