"""The rows of the table, and the process that runs them: python -m coupalign.device_check.worker DIRECTORY ROW…

It prints a line of JSON for each row. ``coupalign.device_check.run`` starts it, and another one after a crash.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from coupalign import devices
from coupalign.config import Config, load_config
from coupalign.device_check.curve import compare_curve, compare_resumed
from coupalign.device_check.modules import MODULES, compare_dropout, compare_module
from coupalign.device_check.paper_size import measure_steps
from coupalign.device_check.ranks import CONFIG, check_ranks
from coupalign.device_check.rows import HOST_ROWS, Outcome
from coupalign.device_check.updates import compare_adamw, skip_nan, skip_overflow
from coupalign.device_check.versions import VERSIONS, check_versions
from coupalign.errors import UserError


def check(name: str, config: Config, directory: Path, deadline: float) -> Outcome:
    """The outcome of a row of ROWS; an error is a FAIL with its reason."""
    target = config.run.device_target
    rows: dict[str, Callable[[], Outcome]] = {
        "versions": lambda: check_versions(json.loads((directory / VERSIONS).read_text()), target),
        "collective": lambda: check_ranks(target, directory),
        "dropout": compare_dropout,
        "adamw": compare_adamw,
        "skipped_step": skip_nan,
        "overflow": skip_overflow,
        "resume": lambda: compare_resumed(config, directory),
        "paper_size": lambda: measure_steps(config, directory, deadline),
    }
    try:
        if name in MODULES:
            return compare_module(name)
        if name == "curve_bf16" and target != "Ascend":
            return Outcome(note="bf16 is available on Ascend only", status="SKIP")
        if name == "paper_size" and target == "CPU":
            return Outcome(note="a step takes minutes on a CPU: see benchmarks.training_memory", status="SKIP")
        return rows[name]() if name in rows else compare_curve(config, name.removeprefix("curve_"), directory)
    except Exception as error:  # whatever an operator raises is this row's result
        reason = " ".join(str(error).split())[:300]
        return Outcome(note=f"{type(error).__name__}: {reason}", status="FAIL")


def main(directory: Path, deadline: float, names: Sequence[str]) -> Iterator[dict]:
    """Yields each row as a dictionary."""
    config = load_config(directory / CONFIG)
    if not set(names) <= set(HOST_ROWS):
        devices.set_up(config.run)
    for name in names:
        start = time.monotonic()
        outcome = check(name, config, directory, deadline)
        yield {"row": name, **asdict(outcome), "seconds": round(time.monotonic() - start, 1)}


if __name__ == "__main__":
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print
    try:
        for row in main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]):
            print(json.dumps(row), file=results, flush=True)
    except UserError as user_error:
        print(json.dumps({"error": str(user_error)}), file=results, flush=True)
