"""How badly failures fail, as the paper's Table 2: samples with IoU below 0.5 by tenths, of evaluations side by side."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import commonpath
from pathlib import Path

from coupalign.errors import UserError
from coupalign.evaluation.metric import HISTOGRAM_BINS
from coupalign.visual.page import INK, MARGIN, MUTED, RULE, SERIES, Page
from coupalign.visual.results import Evaluation

RANGES = [f"[{'0' if not low else f'0.{low}'},0.{low + 1})" for low in range(HISTOGRAM_BINS)]
_HEADER = ["evaluation", "samples", *RANGES, "all below 0.5"]
_WIDTH, _HEIGHT = 960, 300  # of the page at least, and of its tallest bar
_BAR, _AXIS, _BETWEEN = 48, 52, 24  # a bar and the number on it, at least; left of the bars; between ranges


@dataclass(frozen=True)
class Row:
    """Failures of one evaluation: its name, its number of samples, and how many of them are in each range of IoU."""

    name: str
    samples: int
    counts: Sequence[int]

    @property
    def failures(self) -> int:
        return sum(self.counts)

    def cells(self) -> list[str]:
        """Of a table to read: name, samples, and counts with their shares of the samples."""
        return [
            self.name,
            f"{self.samples:,}",
            *(f"{count:,} ({100 * count / self.samples:.1f} %)" for count in (*self.counts, self.failures)),
        ]


def failure_rows(evaluations: Sequence[Evaluation], names: Sequence[str] = ()) -> list[Row]:
    """A row an evaluation, in the order given.

    Args:
        names: one each, or none: each is then called after its data set, split and, where several are alike, what tells
            their paths apart.

    Raises: UserError where there are some names, but not one each.
    """
    if names and len(names) != len(evaluations):
        raise UserError(f"{len(names)} names for {len(evaluations)} evaluations: give --name once for each, or never")
    return [
        Row(name, evaluation.content["samples"], evaluation.content["metrics"]["histogram"])
        for name, evaluation in zip(names or _names(evaluations), evaluations)
    ]


def protocols(evaluations: Sequence[Evaluation]) -> list[str]:
    """What the figures depend on, in lines; one that warns where evaluations differ in it."""
    alike: dict[str, dict[str, None]] = {}
    for each in evaluations:
        alike.setdefault(each.content["protocol"], {})[each.title] = None
    lines = [f"{', '.join(titles)}: {protocol}." for protocol, titles in alike.items()]
    if len({(each.title, each.content["protocol"], each.content["samples"]) for each in evaluations}) > 1:
        lines.append("These evaluations differ in data, samples or protocol: compare with care.")
    return lines


def as_text(rows: Sequence[Row]) -> str:
    table = [_HEADER, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table)]
    return "\n".join("  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])]) for cells in table)


def as_markdown(rows: Sequence[Row], about: Sequence[str]) -> str:
    table = [_HEADER, ["---", *["---:"] * (len(_HEADER) - 1)], *(row.cells() for row in rows)]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in table]
    return "\n".join([*lines, "", *about, ""])


def as_csv(rows: Sequence[Row]) -> str:
    """Numbers of samples, without shares."""
    text = io.StringIO()
    csv.writer(text).writerows([_HEADER, *([row.name, row.samples, *row.counts, row.failures] for row in rows)])
    return text.getvalue()


def draw_failures(rows: Sequence[Row], about: Sequence[str]) -> Page:
    """Bars of the shares of samples in each range, a colour an evaluation, with the counts on them."""
    page = Page(max(_WIDTH, 2 * MARGIN + _AXIS + HISTOGRAM_BINS * (len(rows) * _BAR + _BETWEEN)))
    page.y += 20
    page.text(MARGIN, page.y, "Failures by IoU", 24, bold=True)
    page.y += 6
    for line in about:
        page.paragraph(line)
    page.y += 34
    for number, row in enumerate(rows):
        page.box(MARGIN, page.y - 11, 12, 12, _colour(number))
        said = f"{100 * row.failures / row.samples:.1f} % of {row.samples:,} samples below 0.5"
        left = page.width - 2 * MARGIN - 28 - page.text_width(said)
        page.text(MARGIN + 20, page.y, page.lines(row.name, left, 14, most=1)[0], 14)
        page.text(page.width - MARGIN, page.y, said, colour=MUTED, align="right")
        page.y += 22
    _draw_bars(page, rows)
    return page


def _draw_bars(page: Page, rows: Sequence[Row]) -> None:
    page.y += 30
    top, bottom = page.y, page.y + _HEIGHT
    most = max(max(max(row.counts) / row.samples for row in rows), 1e-9)
    step = next(each for each in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if most / each <= 6)
    left, right = MARGIN + _AXIS, page.width - MARGIN
    for number in range(int(most / step) + 1):
        y = bottom - _HEIGHT * number * step / most
        page.box(left, y, right - left, 1, INK if not number else RULE)
        page.text(left - 10, y + 4, f"{100 * number * step:g} %", 12, MUTED, align="right")
    page.text(MARGIN, top - 20, "share of all samples; numbers on the bars are samples", 12, MUTED)
    room = (right - left) / HISTOGRAM_BINS
    width = min((room - _BETWEEN) / len(rows), 56)
    for place, name in enumerate(RANGES):
        start = left + room * (place + 0.5) - width * len(rows) / 2
        for number, row in enumerate(rows):
            height = _HEIGHT * row.counts[place] / row.samples / most
            page.box(start + width * number + 1, bottom - height, width - 2, height, _colour(number))
            page.text(start + width * (number + 0.5), bottom - height - 4, f"{row.counts[place]:,}", 12, align="center")
        page.text(left + room * (place + 0.5), bottom + 20, name, 13, align="center")
    page.text((left + right) / 2, bottom + 44, "IoU", 13, MUTED, align="center")
    page.y = bottom + 50


def _colour(number: int) -> str:
    return SERIES[number % len(SERIES)]


def _names(evaluations: Sequence[Evaluation]) -> list[str]:
    titles = [evaluation.title for evaluation in evaluations]
    if len(set(titles)) == len(titles):
        return titles
    paths = [evaluation.path.absolute() for evaluation in evaluations]
    if len(set(paths)) < len(paths):
        raise UserError("an evaluation is given twice: name each file once")
    shared = Path(commonpath(paths))
    return [f"{title}, {path.relative_to(shared)}" for title, path in zip(titles, paths)]
