"""Evaluations as eval.py left them: <split>.json and <split>.csv."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coupalign.errors import UserError
from coupalign.evaluation.metric import HISTOGRAM_BINS
from coupalign.evaluation.result import SAMPLE_COLUMNS, SYNTHETIC
from coupalign.files import find_file, sha256

_AGAIN = "make it with eval.py"
_KEYS = {
    "dataset": str,
    "split": str,
    "samples": int,
    "threshold": (int, float),
    "resolution": str,
    "protocol": str,
    "metrics": dict,
    "config": dict,
}
_NUMBERS = ("image_id", "ref_id", "ann_id", "sent_id", "intersection", "union")


@dataclass(frozen=True)
class Evaluation:
    """One result of eval.py.

    Attributes:
        path: of the JSON file.
        content: what it holds, as ``coupalign.evaluation.result.Result.as_dict`` has it.
    """

    path: Path
    content: dict[str, Any]

    @property
    def title(self) -> str:
        """Data set and split; synthetic data are called so."""
        dataset = self.content["dataset"]
        return f"{dataset}{' (synthetic)' if dataset == SYNTHETIC else ''} {self.content['split']}"

    def samples(self) -> list[dict[str, Any]]:
        """Rows of the CSV file beside it, in its order: ids, ``intersection`` and ``union`` int, ``iou`` the text of the
        file, the rest str. Raises: UserError where the file is missing, or none of this evaluation."""
        path = self.path.with_suffix(".csv")
        try:
            with open(path, newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            for row in rows:
                row.update({column: int(row[column]) for column in _NUMBERS})
                float(row["iou"]), [row[column].strip() for column in SAMPLE_COLUMNS[4:]]
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}): {_AGAIN}, which writes it beside {self.path.name}"
            ) from error
        except (KeyError, ValueError, TypeError, AttributeError, csv.Error) as error:
            raise UserError(f"{path} is no table of samples: {_AGAIN}") from error
        if len(rows) != self.content["samples"]:
            raise UserError(
                f"{path} has {len(rows)} samples, {self.path.name} is about {self.content['samples']}: {_AGAIN} again"
            )
        return rows

    def checkpoint(self, given: str | os.PathLike | None = None) -> Path:
        """The checkpoint that was evaluated: `given`, or the one named, or one of that name in the run's directory.

        Raises: UserError where it is missing, or another by its SHA-256.
        """
        named = self.content.get("checkpoint")
        if not isinstance(named, dict) or not {"file", "sha256"} <= named.keys():
            raise UserError(f"{self.path} names no checkpoint: {_AGAIN}")
        wanted = [given] if given else [named["file"], self.path.absolute().parent.parent / Path(named["file"]).name]
        found = [find_file(path) for path in wanted if find_file(path).is_file()]
        if not found:
            raise UserError(f"no checkpoint {wanted[0]}: pass the one that {self.path} is about with --checkpoint")
        for path in found:
            if sha256(path) == named["sha256"]:
                return path
        raise UserError(
            f"{found[0]} is another checkpoint than {self.path} is about (SHA-256 "
            f"{named['sha256'][:12]}…): pass that one with --checkpoint, or evaluate this one with eval.py"
        )


def read_evaluation(path: str | os.PathLike) -> Evaluation:
    """Reads a <split>.json of eval.py. Raises: UserError where it is missing or something else."""
    path = find_file(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"evaluation {path} cannot be read ({error.strerror}): {_AGAIN}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: pass a <split>.json of eval.py") from error
    right = isinstance(content, dict) and all(isinstance(content.get(key), kind) for key, kind in _KEYS.items())
    counts = content["metrics"].get("histogram") if right else None
    if not isinstance(counts, list) or len(counts) != HISTOGRAM_BINS or not all(type(count) is int for count in counts):
        raise UserError(f"{path} is no result of an evaluation: pass a <split>.json of eval.py")
    return Evaluation(path, content)
