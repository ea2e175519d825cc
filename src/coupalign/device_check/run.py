"""Runs the rows in processes of their own, so that a crash or a hanging device is a FAIL of one row."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from coupalign.config import Config
from coupalign.device_check.rows import HOST_ROWS
from coupalign.device_check.versions import VERSIONS
from coupalign.errors import UserError

BUDGET = 300  # seconds of the whole check; paper_size takes what the other rows leave
ROW_LIMIT = 600  # seconds after which a row other than paper_size is taken to hang


def run_rows(config: Config, names: Sequence[str], versions: dict[str, str]) -> Iterator[dict]:
    """Yields a dictionary for each row: row, status, difference, tolerance, note, seconds.

    Args:
        versions: From ``find_versions``, which takes seconds.

    Raises: UserError if the device is not available.
    """
    deadline = time.monotonic() + BUDGET
    with tempfile.TemporaryDirectory() as scratch:
        config.save(Path(scratch, "config.yaml"))
        Path(scratch, VERSIONS).write_text(json.dumps(versions), encoding="utf-8")
        for _, group in itertools.groupby(names, HOST_ROWS.__contains__):
            left = list(group)
            while left:  # again after a crash
                for row in _run_worker(Path(scratch), deadline, left):
                    left.remove(row["row"])
                    yield row


def _run_worker(scratch: Path, deadline: float, names: Sequence[str]) -> Iterator[dict]:
    """Yields the rows of one process; if it ends early, the row it did not finish is the last."""
    left, start = list(names), time.monotonic()
    limit = max(deadline - start, 60) + 30 if names == ["paper_size"] else ROW_LIMIT
    paths = {"PYTHONPATH": Path(__file__).parents[2], "PATH": Path(sys.executable).parent}  # msrun calls `python`
    with open(scratch / "errors.txt", "w+", encoding="utf-8", errors="replace") as errors:
        worker = subprocess.Popen(
            [sys.executable, "-m", "coupalign.device_check.worker", str(scratch), str(deadline), *names],
            env=os.environ | {name: f"{path}{os.pathsep}{os.environ.get(name, '')}" for name, path in paths.items()},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        timer = _kill_after(limit, worker)
        try:
            for line in worker.stdout or ():
                timer.cancel()
                row = json.loads(line)
                if "error" in row:
                    raise UserError(row["error"])
                left.remove(row["row"])
                yield row
                start, timer = time.monotonic(), _kill_after(limit, worker)
        finally:
            timer.cancel()
            worker.kill()
            worker.wait()
        if left:
            seconds = round(time.monotonic() - start, 1)
            errors.seek(0)
            last = ([line for line in errors.read().splitlines() if line.strip()] or [""])[-1].strip()[:300]
            hangs = f"no result within {limit:.0f} s" if seconds >= limit - 1 else ""
            note = hangs or f"the process ended with code {worker.returncode}: {last}"
            row = {"row": left[0], "status": "FAIL", "difference": None, "tolerance": None}
            yield {**row, "note": note, "seconds": seconds}


def _kill_after(seconds: float, process: subprocess.Popen) -> threading.Timer:
    timer = threading.Timer(seconds, process.kill)
    timer.daemon = True
    timer.start()
    return timer
