"""Reads the results of eval.py, <split>.json and <split>.csv, and compares their failures."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coupalign.errors import UserError
from coupalign.evaluation.metric import HISTOGRAM_BINS
from coupalign.evaluation.result import SAMPLE_COLUMNS, SYNTHETIC
from coupalign.files import find_file, sha256

RANGES = [f"[{low / 10:g},{(low + 1) / 10:g})" for low in range(HISTOGRAM_BINS)]
_KEYS = {"dataset": str, "split": str, "samples": int, "protocol": str, "metrics": dict, "config": dict}
_NUMBERS = ("image_id", "ref_id", "ann_id", "sent_id", "intersection", "union")


@dataclass(frozen=True)
class Evaluation:
    """One result of eval.py."""

    path: Path  # of the JSON file
    content: dict[str, Any]  # of ``coupalign.evaluation.result.Result.as_dict``

    @property
    def title(self) -> str:
        """Data set and split; synthetic data are marked."""
        return f"{dataset_name(self.content['dataset'])} {self.content['split']}"

    def samples(self) -> list[dict[str, Any]]:
        """The rows of the CSV file beside the JSON file: ids, ``intersection`` and ``union`` int, the others str.

        Raises: UserError if it is missing, damaged, or belongs to another evaluation.
        """
        path = self.path.with_suffix(".csv")
        try:
            with open(path, newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            for row in rows:
                row.update({column: int(row[column]) for column in _NUMBERS})
                float(row["iou"]), [row[column].strip() for column in SAMPLE_COLUMNS[4:]]
        except (OSError, KeyError, ValueError, TypeError, AttributeError, csv.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not a table of samples"
            raise UserError(f"{path} cannot be read ({reason}): run eval.py again, which writes it") from error
        if len(rows) != self.content["samples"]:
            raise UserError(f"{path} has {len(rows)} samples, unlike {self.path.name}: run eval.py again")
        return rows

    def checkpoint(self, given: str | os.PathLike | None = None) -> Path:
        """The checkpoint that was evaluated, compared by SHA-256. Raises: UserError.

        Args:
            given: Its path. None: the path in the evaluation, or a file of the same name in the run's directory.
        """
        named = self.content.get("checkpoint")
        if not isinstance(named, dict) or not {"file", "sha256"} <= named.keys():
            raise UserError(f"{self.path} names no checkpoint: run eval.py again")
        wanted = [given] if given else [named["file"], self.path.absolute().parent.parent / Path(named["file"]).name]
        found = [path for path in map(find_file, wanted) if path.is_file()]
        for path in found:
            if sha256(path) == named["sha256"]:
                return path
        problem = f"{found[0]} is a different checkpoint from the one in" if found else f"no checkpoint {wanted[0]} of"
        raise UserError(f"{problem} {self.path}: pass the one that was evaluated with --checkpoint")


def dataset_name(dataset: str) -> str:
    """The data set's name; synthetic data are marked."""
    return dataset + " (synthetic)" * (dataset == SYNTHETIC)


def read_evaluation(path: str | os.PathLike) -> Evaluation:
    """Reads a <split>.json of eval.py. Raises: UserError."""
    path = find_file(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not JSON"
        raise UserError(f"{path} cannot be read ({reason}): pass a <split>.json of eval.py") from error
    valid = isinstance(content, dict) and all(isinstance(content.get(key), kind) for key, kind in _KEYS.items())
    counts = content["metrics"].get("histogram") if valid else None
    if not isinstance(counts, list) or len(counts) != HISTOGRAM_BINS or not all(type(count) is int for count in counts):
        raise UserError(f"{path} is not the result of an evaluation: pass a <split>.json of eval.py")
    return Evaluation(path, content)


def failures_table(evaluations: Sequence[Evaluation]) -> str:
    """Table 2 of the paper in Markdown: samples with IoU below 0.5 by tenths, and a warning if protocols differ."""
    rows, protocols = [], set()
    for each in evaluations:
        samples, counts = each.content["samples"], each.content["metrics"]["histogram"]
        shares = [f"{count:,} ({100 * count / samples:.1f} %)" for count in (*counts, sum(counts))]
        rows.append([str(each.path), f"{each.title}; {each.content['protocol']}", f"{samples:,}", *shares])
        protocols.add(tuple(rows[-1][1:3]))
    lines = markdown_table(["evaluation", "data", "samples", *RANGES, "all below 0.5"], rows)
    if len(protocols) > 1:
        lines += ["", "These evaluations differ in data, samples or protocol: compare with care."]
    return "\n".join(lines)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of an aligned Markdown table; a | within a cell is escaped."""
    table = [[cell.replace("|", "\\|") for cell in cells] for cells in (header, *rows)]
    first, *others = [max(3, *map(len, column)) for column in zip(*table)]
    table.insert(1, ["-" * first, *("-" * (width - 1) + ":" for width in others)])
    return [f"| {' | '.join([cells[0].ljust(first), *map(str.rjust, cells[1:], others)])} |" for cells in table]
