"""The parts of a study's report that are no ablation table: failures, alignment, the reference in full."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from coupalign.study.results import Found
from coupalign.study.study_file import Study
from coupalign.study.writing import markdown_table, percent, seeds_of
from coupalign.visual.failures import Row
from coupalign.visual.failures import as_markdown as failures_as_markdown


def about_failures(study: Study, found: Sequence[Found]) -> list[str]:
    """Failures by range of IoU (Table 2's question), a row a run, and of all seeds of a row together."""
    seeds = {each.run.seed for each in found}
    for name in study.failures:
        seeds &= {each.run.seed for each in seeds_of(found, name)}
    if not seeds or not study.failures:
        return []
    rows = []
    for name in study.failures:
        metrics = [
            (each.run, each.metrics(study.split, study.family))
            for each in seeds_of(found, name)
            if each.run.seed in seeds
        ]
        rows += [Row(str(run), each["samples"], each["histogram"]) for run, each in metrics]
        if len(metrics) > 1:
            together = [sum(counts) for counts in zip(*(each["histogram"] for _, each in metrics))]
            rows.append(Row(f"{name}, together", sum(each["samples"] for _, each in metrics), together))
    return [
        "## Table 2's question: failures by IoU",
        "",
        failures_as_markdown(rows, [f"{study.split}, {study.family or 'all families'}; seeds that all have."]),
    ]


def about_alignment(study: Study, found: Sequence[Found]) -> list[str]:
    """What Q_w and the gates do: the first and the last measurement of each run's alignment.csv."""
    header = ["run", "steps", "entropy", "largest weight", "gates to pixels", "gates to words"]
    rows = []
    for each in found:
        first, last = each.alignment[0], each.alignment[-1]
        rows.append(
            [
                str(each.run),
                f"{first['step']} → {last['step']}",
                *(_change(first, last, [name], 4) for name in ("entropy", "largest_weight")),
                *(
                    _change(first, last, [f"{kind}_gate_{stage}" for stage in range(1, 5)], 2)
                    for kind in ("image", "text")
                ),
            ]
        )
    return [
        "## Q_w and the gates over training",
        "",
        "Entropy of Q_w over log N (1: all masks weigh the same), its largest weight, and the gates' mean openings "
        "into pixels and into words at stages 1 to 4 (– where there is none), at the first checkpoint kept and at "
        "the end. alignment.csv of a run has those between.",
        "",
        *markdown_table(header, rows),
        "",
    ]


def about_reference(study: Study, found: Sequence[Found]) -> list[str]:
    """The reference on every split and family, beside what takes no understanding."""
    runs = seeds_of(found, study.reference)
    if not runs:
        return []
    rows, names = [], list(runs[0].evaluations[study.split].content["baselines"])
    for split, evaluation in runs[0].evaluations.items():
        for family in ("", *evaluation.content["families"]):
            metrics = [each.metrics(split, family) for each in runs]
            cells = [
                f"{percent(fmean(values))} ({percent(min(values))}-{percent(max(values))})"
                for name in ("oIoU", "mIoU", "prec@0.5")
                for values in [[each[name] for each in metrics]]
            ]
            content = evaluation.content
            baselines = content["family_baselines"][family] if family else content["baselines"]
            rows.append(
                [
                    split,
                    family or "all",
                    str(metrics[0]["samples"]),
                    *cells,
                    *(percent(baselines[name]["mIoU"]) for name in names),
                ]
            )
    return [
        f"## {study.reference!r} on every split, {len(runs)} seed{'s' * (len(runs) > 1)}",
        "",
        "Mean (lowest-highest), beside the mIoU of baselines. Families that were not trained on say nothing of a row.",
        "",
        *markdown_table(
            ["split", "family", "samples", "oIoU", "mIoU", "prec@0.5", *(f"mIoU: {name}" for name in names)], rows
        ),
        "",
    ]


def _change(first: dict[str, str], last: dict[str, str], names: Sequence[str], digits: int) -> str:
    if not any(last[name] for name in names):
        return "–"
    return " → ".join(
        " ".join(f"{float(line[name]):.{digits}f}" if line[name] else "–" for name in names) for line in (first, last)
    )
