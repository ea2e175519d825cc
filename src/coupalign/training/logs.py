"""Tables that grow row by row."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coupalign.files import write_text


class CsvLog:
    """A CSV file that grows row by row.

    Args:
        path: File to write.
        columns: Names of the columns. The first holds a number that grows from row to row.
        source: Directory with a file of the same name, whose rows up to number `last` are kept; None to start empty.
        last: See `source`.
    """

    def __init__(self, path: Path, columns: Sequence[str], source: Path | None = None, last: int = 0):
        self._columns = columns
        kept = io.StringIO(newline="")
        writer = self._writer(kept)
        writer.writeheader()
        for row in csv.DictReader(_complete_lines(source, path.name)):
            complete = None not in row and None not in row.values() and row[columns[0]].isdigit()
            if complete and int(row[columns[0]]) <= last:
                writer.writerow(row)
        self._path = path
        write_text(path, kept.getvalue())

    def add(self, figures: Mapping[str, Any]) -> None:
        """Appends a row. Figures keep all their digits; missing ones stay empty."""
        with open(self._path, "a", newline="", encoding="utf-8") as file:
            self._writer(file).writerow(figures)

    def flush(self) -> None:
        """Returns when the rows would survive a power failure."""
        with open(self._path, "rb") as file:
            os.fsync(file.fileno())

    def _writer(self, file: Any) -> csv.DictWriter:
        return csv.DictWriter(file, self._columns, extrasaction="ignore")


def _complete_lines(directory: Path | None, name: str) -> list[str]:
    """Complete lines of a file. A killed process leaves an incomplete last line; a power failure may leave zeros."""
    if directory is None or not (directory / name).exists():
        return []
    lines = (directory / name).read_bytes().splitlines(keepends=True)
    return [line.decode() for line in lines if re.fullmatch(rb"[ -~]+\r?\n", line)]
