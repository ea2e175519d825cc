"""Words and tables of a study's report."""

from __future__ import annotations

from collections.abc import Sequence

from coupalign.study.results import Found


def seeds_of(found: Sequence[Found], row: str, seeds: Sequence[int] | None = None) -> list[Found]:
    """Runs of a row; those of some seeds."""
    return [each for each in found if each.run.row == row and (seeds is None or each.run.seed in seeds)]


def percent(share: float) -> str:
    return f"{100 * share:.2f}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines; a | within a cell does not end it."""
    table = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in table]
