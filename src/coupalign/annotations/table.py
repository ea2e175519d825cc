"""Tables of expressions: CSV files with a header."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coupalign.annotations.objects import file_key
from coupalign.data.referents import as_text, is_split, shown
from coupalign.errors import UserError
from coupalign.files import read_table

_OPTIONAL = ("split", "category")


@dataclass(frozen=True)
class Row:
    """A line of a table. `split` and `category` are "" where the table has none."""

    number: int
    expression: str
    split: str = ""
    category: str = ""


class ExpressionTable:
    """Expressions of objects, several rows for several expressions of one object.

    The columns of the file, see ``read_table``, are key columns, ``expression`` and, optionally, ``split`` and
    ``category``.

    Args:
        choices: Key columns, one of which sets the table must have.

    Attributes:
        columns: The key columns that the table has.
        rows: Rows by the values of the key columns.

    Raises: UserError, which names file and line.
    """

    def __init__(self, path: Path, choices: Sequence[tuple[str, ...]]):
        names, rows = read_table(path, "--expressions")
        self.columns = next((each for each in choices if {*each, "expression"} <= set(names)), ())
        if not self.columns or not set(names) <= {*self.columns, "expression", *_OPTIONAL}:
            wanted = " or ".join(",".join((*each, "expression")) for each in choices)
            raise UserError(
                f"{path} line 1: the columns are {', '.join(names) or 'none'}: write the header {wanted}; further "
                f"columns allowed: {', '.join(_OPTIONAL)}"
            )
        self.path = path
        self.rows: dict[tuple[str, ...], list[Row]] = {}
        for number, values in rows:
            self._add(number, values)

    def _add(self, number: int, values: dict[str, str]) -> None:
        where = f"{self.path} line {number}"
        cells = {name: as_text(value) for name, value in values.items()}
        for name in (*self.columns, "expression"):
            if not cells[name]:
                raise UserError(f"{where}: no {name}: fill it in, or remove the line")
        split = cells.get("split", "")
        if split and not is_split(split):
            raise UserError(f"{where}: the split is {shown(split)}: use letters, digits, _ and -")
        key = tuple(_normalised(name, cells[name], where) for name in self.columns)
        self.rows.setdefault(key, []).append(Row(number, cells["expression"], split, cells.get("category", "")))


def _normalised(column: str, value: str, where: str) -> str:
    """One spelling for each file, index and colour (``#rrggbb``)."""
    if column == "file":
        return file_key(value)
    if column == "index" and not value.isdecimal():
        raise UserError(f"{where}: the index is {shown(value)}: write a whole number")
    if column == "colour":
        digits = value.lower().removeprefix("#")
        parts = value.replace(",", " ").split()
        if len(parts) == 3 and all(part.isdecimal() and int(part) < 256 for part in parts):
            digits = "".join(f"{int(part):02x}" for part in parts)
        if len(digits) != 6 or set(digits) - set("0123456789abcdef"):
            raise UserError(f"{where}: the colour is {shown(value)}: write it as #ff8000 or 255 128 0")
        return f"#{digits}"
    return str(int(value)) if column == "index" else value
