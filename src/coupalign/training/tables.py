"""Files that grow by a whole line at a time: tables, and lines of JSON."""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from coupalign.files import atomic_path


class Table:
    """A CSV file with a header.

    Args:
        path: file to write.
        columns: names; the first holds a number that grows from row to row.
        source: table to begin with, where it exists: its whole rows up to number `last`.

    Raises: OSError or UserError where it cannot be written, as ``add`` does.
    """

    def __init__(self, path: Path, columns: Sequence[str], source: Path | None = None, last: int = 0):
        self._path = path
        self._columns = columns
        with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = self._writer(file)
            writer.writeheader()
            writer.writerows(row for row in _rows(source) if int(row[columns[0]]) <= last)

    def add(self, figures: Mapping[str, Any]) -> None:
        """Adds a row, at once, so that a run can be watched: each figure with all its digits, others left empty."""
        with open(self._path, "a", newline="", encoding="utf-8") as file:
            self._writer(file).writerow(figures)

    def flush(self) -> None:
        """Returns when the rows would survive a power cut."""
        _to_disk(self._path)

    def _writer(self, file: Any) -> csv.DictWriter:
        return csv.DictWriter(file, self._columns, extrasaction="ignore")


class JsonLines:
    """A file with an object of JSON a line. Numbers that are not finite, which JSON lacks, become null.

    Args:
        path: file to write.
        source: file to begin with, where it exists: those of its whole lines that `stands` is true of.

    Raises: OSError or UserError where it cannot be written, as ``add`` does.
    """

    def __init__(self, path: Path, source: Path | None = None, stands: Callable[[dict], bool] = bool):
        self._path = path
        with atomic_path(path) as temporary:
            lines = (line for line in _lines(source) if _is_object(line))
            temporary.write_bytes(b"".join(line for line in lines if stands(json.loads(line))))

    def add(self, values: Mapping[str, Any]) -> None:
        """Adds a line, at once."""
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(finite, allow_nan=False) + "\n")

    def flush(self) -> None:
        """As of Table."""
        _to_disk(self._path)


def _lines(source: Path | None) -> list[bytes]:
    """Lines of a file that are whole. A kill cuts the last one off; a power cut may leave zeros."""
    lines = source.read_bytes().splitlines(keepends=True) if source and source.exists() else []
    return [line for line in lines if re.fullmatch(rb"[ -~]+\r?\n", line)]


def _rows(source: Path | None) -> list[dict[str, str]]:
    rows = csv.DictReader(line.decode() for line in _lines(source))
    return [row for row in rows if None not in row and None not in row.values() and next(iter(row.values())).isdigit()]


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _to_disk(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
