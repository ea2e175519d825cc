"""What the runs of a study found: results.csv, a line for each row, seed, split and family."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coupalign.config import load_config
from coupalign.errors import UserError
from coupalign.study.runner import DONE, read_starts
from coupalign.study.study_file import METRICS, Run, Study
from coupalign.visual.evaluations import Evaluation, read_evaluation
from coupalign.visual.failures import RANGES

OF_RUN = ("parameters", "steps", "samples", "training_seconds", "evaluation_seconds")
COMPUTE = (*OF_RUN, "seconds", "processor_seconds")
HEADER = ("row", "seed", "split", "family", "n", *METRICS, *(f"IoU in {each}" for each in RANGES), *COMPUTE)


@dataclass(frozen=True)
class Found:
    """A run that is done: its evaluations by split, its compute by ``COMPUTE``, its alignment.csv as text by column."""

    run: Run
    evaluations: dict[str, Evaluation]
    compute: dict[str, float]
    alignment: list[dict[str, str]]

    def metrics(self, split: str, family: str = "") -> dict[str, Any]:
        """As ``Result.metrics``, of a family of expressions, or of all. Raises: UserError where there is none such."""
        if split not in self.evaluations:
            raise UserError(
                f"{self.run} was not evaluated on {split}, which the study's tables show: it was on "
                f"{', '.join(self.evaluations)}"
            )
        content = self.evaluations[split].content
        if family and family not in content["families"]:
            raise UserError(
                f"{self.evaluations[split].path} has no family {family!r}: it has "
                f"{', '.join(content['families']) or 'none'}"
            )
        return content["families"][family] if family else content["metrics"]


def read_found(study: Study, output: str | Path) -> list[Found]:
    """All runs of a study that are done, in the order of work.

    Raises: UserError where files are missing or broken, or runs saw different data.
    """
    found, data = [], {}
    for run in study.runs():
        directory = Path(output, run.row, str(run.seed))
        if not (directory / DONE).exists():
            continue
        try:
            done = json.loads((directory / DONE).read_text(encoding="utf-8"))
            with open(directory / "alignment.csv", newline="", encoding="utf-8") as file:
                alignment = list(csv.DictReader(file))
            compute = dict(zip(COMPUTE, (*(done[name] for name in OF_RUN), *read_starts(directory))))
            data.setdefault(done["data"], run)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{directory} is damaged ({error}): remove it, and run the study again") from error
        evaluations = {
            split: read_evaluation(directory / "eval" / f"{split}.json")
            for split in load_config(directory / "config.yaml").evaluation.eval_splits
        }
        found.append(Found(run, evaluations, compute, alignment))
    if len(data) > 1:
        first, other, *_ = data.values()
        raise UserError(f"{output}: runs {first} and {other} were made of different data: remove one kind")
    return found


def as_csv(found: list[Found]) -> str:
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(HEADER)
    for each in found:
        for split, evaluation in each.evaluations.items():
            for family in ("", *evaluation.content["families"]):
                metrics = each.metrics(split, family)
                table.writerow(
                    [
                        each.run.row,
                        each.run.seed,
                        split,
                        family or "all",
                        metrics["samples"],
                        *(f"{metrics[name]:.6f}" for name in METRICS),
                        *metrics["histogram"],
                        *each.compute.values(),
                    ]
                )
    return text.getvalue()
