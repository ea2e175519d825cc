"""Log files that grow by a line at a time: CSV and JSON Lines."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coupalign.files import atomic_path


class _Log:
    def __init__(self, path: Path, kept: str):
        self._path = path
        with atomic_path(path) as temporary:
            temporary.write_bytes(kept.encode())

    def flush(self) -> None:
        """Returns when the lines would survive a power failure."""
        with open(self._path, "rb") as file:
            os.fsync(file.fileno())


class CsvLog(_Log):
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
        super().__init__(path, kept.getvalue())

    def add(self, figures: Mapping[str, Any]) -> None:
        """Appends a row. Figures keep all their digits; missing ones stay empty."""
        with open(self._path, "a", newline="", encoding="utf-8") as file:
            self._writer(file).writerow(figures)

    def _writer(self, file: Any) -> csv.DictWriter:
        return csv.DictWriter(file, self._columns, extrasaction="ignore")


class JsonLog(_Log):
    """A file with one JSON object per line. Numbers that are not finite, which JSON lacks, become null.

    Args:
        path: File to write.
        source: Directory with a file of the same name, whose lines are kept up to the numbers of `last`; None to start
            empty.
        last: By the ``kind`` of a line, such as "step", the last number kept: ``{"step": 40, "epoch": 2}``.
    """

    def __init__(self, path: Path, source: Path | None, last: Mapping[str, int]):
        super().__init__(path, "".join(line for line in _complete_lines(source, path.name) if _is_kept(line, last)))

    def add(self, values: Mapping[str, Any]) -> None:
        """Appends a line."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(finite, allow_nan=False) + "\n")


def _complete_lines(directory: Path | None, name: str) -> list[str]:
    """Complete lines of a file. A killed process leaves an incomplete last line; a power failure may leave zeros."""
    if directory is None or not (directory / name).exists():
        return []
    lines = (directory / name).read_bytes().splitlines(keepends=True)
    return [line.decode() for line in lines if re.fullmatch(rb"[ -~]+\r?\n", line)]


def _is_kept(line: str, last: Mapping[str, int]) -> bool:
    try:
        values = json.loads(line)
        return values[values["kind"]] <= last[values["kind"]]
    except (ValueError, KeyError, TypeError):
        return False
