"""How badly failures fail (paper, Table 2): samples with IoU below 0.5, by tenths, of several evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import commonpath
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from coupalign.errors import UserError
from coupalign.evaluation.metric import HISTOGRAM_BINS
from coupalign.visual.evaluations import Evaluation
from coupalign.visual.figures import SERIES, heading, new_figure, wrapped

RANGES = [f"[{low / 10:g},{(low + 1) / 10:g})" for low in range(HISTOGRAM_BINS)]
_HEADER = ["evaluation", "samples", *RANGES, "all below 0.5"]


class Row(NamedTuple):
    """The failures of one evaluation: its name, its number of samples, and their number in each of ``RANGES``."""

    name: str
    samples: int
    counts: Sequence[int]

    def cells(self) -> list[str]:
        """Texts for a table: name, samples, counts with their shares of the samples."""
        counts = (*self.counts, sum(self.counts))
        shares = (f"{count:,} ({100 * count / self.samples:.1f} %)" for count in counts)
        return [self.name, f"{self.samples:,}", *shares]


def failure_rows(evaluations: Sequence[Evaluation], names: Sequence[str] = ()) -> list[Row]:
    """One row per evaluation, called by its name or, without `names`, by its data set and split.

    Where these are equal, the part of the path that differs follows. Raises: UserError.
    """
    if names and len(names) != len(evaluations):
        raise UserError(f"{len(names)} names for {len(evaluations)} evaluations: give --name once for each, or never")
    names = names or [evaluation.title for evaluation in evaluations]
    paths = [evaluation.path.absolute() for evaluation in evaluations]
    if len(set(names)) < len(names):
        if len(set(paths)) < len(paths):
            raise UserError("an evaluation is given twice: name each file once")
        names = [f"{name}, {path.relative_to(commonpath(paths))}" for name, path in zip(names, paths)]
    contents = [evaluation.content for evaluation in evaluations]
    return [Row(name, each["samples"], each["metrics"]["histogram"]) for name, each in zip(names, contents)]


def protocols(evaluations: Sequence[Evaluation]) -> list[str]:
    """What the counts depend on, and a warning if the evaluations differ in it."""
    titles: dict[str, dict[str, None]] = {}
    for each in evaluations:
        titles.setdefault(each.content["protocol"], {})[each.title] = None
    lines = [f"{', '.join(each)}: {protocol}." for protocol, each in titles.items()]
    if len({(each.title, each.content["protocol"], each.content["samples"]) for each in evaluations}) > 1:
        lines.append("These evaluations differ in data, samples or protocol: compare with care.")
    return lines


def as_markdown(rows: Sequence[Row], about: Sequence[str]) -> str:
    return "\n".join([*markdown_table(_HEADER, [row.cells() for row in rows]), "", *about, ""])


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of an aligned Markdown table; a | within a cell is escaped."""
    table = [[cell.replace("|", "\\|") for cell in cells] for cells in (header, *rows)]
    first, *others = [max(3, *map(len, column)) for column in zip(*table)]
    table.insert(1, ["-" * first, *("-" * (width - 1) + ":" for width in others)])
    return [f"| {' | '.join([cells[0].ljust(first), *map(str.rjust, cells[1:], others)])} |" for cells in table]


def draw_failures(rows: Sequence[Row], about: Sequence[str]) -> Figure:
    """Bars of the share of samples in each range, one colour per evaluation, with the counts above them."""
    figure = new_figure(max(960, 160 + HISTOGRAM_BINS * (24 + 48 * len(rows))), 460 + 24 * (len(rows) + len(about)))
    heading(figure, "Failures by IoU", about, characters=120)
    axis = figure.subplots()
    width = 0.8 / len(rows)
    for number, row in enumerate(rows):
        places = [place + (number - (len(rows) - 1) / 2) * width for place in range(HISTOGRAM_BINS)]
        share = f"{100 * sum(row.counts) / row.samples:.1f} % of {row.samples:,} samples below 0.5"
        label = f"{wrapped(row.name, 80)}: {share}"
        shares = [count / row.samples for count in row.counts]
        bars = axis.bar(places, shares, width * 0.95, color=SERIES[number % len(SERIES)], label=label)
        axis.bar_label(bars, [f"{count:,}" for count in row.counts], size=9, padding=2)
    axis.set_xticks(range(HISTOGRAM_BINS), RANGES)
    axis.set(xlabel="IoU; numbers above the bars count samples", ylabel="share of all samples")
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.margins(y=0.1)
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=10)
    return figure
