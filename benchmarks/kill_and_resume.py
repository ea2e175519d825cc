"""Kills a training at random moments, resumes it each time, and compares it with an uninterrupted training.

    python -m benchmarks.kill_and_resume --config configs/refshapes_tiny.yaml --kills 20 --output_dir runs/kill_and_resume

Half of the kills happen while a checkpoint is being written. All weights must be equal bit for bit, and all values in
steps.csv and curve.csv except times.
"""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from coupalign.cli import command, option, parse_arguments
from coupalign.config import Config
from coupalign.errors import UserError
from coupalign.files import REPOSITORY

TIMES = ("time", "seconds", "samples_per_second", "data_ms", "step_ms", "host_ms")


OPTIONS = [
    option("--kills INT", "number of kills", default=20),
]


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, args = parse_arguments(__doc__, argv, OPTIONS)
    directory = Path(config.run.output_dir).resolve()
    whole, killed = Training(config, directory / "whole"), Training(config, directory / "killed")
    print(f"uninterrupted: exit code {whole.run()}", flush=True)
    moments = random.Random(config.run.seed)
    for kill in range(args.kills):
        writing = kill % 2 == 0
        steps = moments.randint(1, 1 + whole.steps() // args.kills)
        delay = moments.random() * (0.02 if writing else 0.5)
        code = killed.run(signal.SIGKILL, after=steps, writing=writing, delay=delay)
        files = ", ".join(sorted(path.name for path in killed.directory.glob(".*"))) or "none"
        print(f"{kill + 1}: exit code {code}, {killed.steps()} steps written, unfinished files: {files}", flush=True)
    print(f"last run: exit code {killed.run()}", flush=True)
    different = differences(whole.directory, killed.directory)
    if different:
        raise UserError(f"the runs differ in {', '.join(different)}")
    print("all weights and figures are equal")
    return 0


class Training:
    """A training in its own process with --resume auto.

    Args:
        config: Its configuration.
        directory: Its output directory.
        program: Arguments of Python that start it.
    """

    def __init__(self, config: Config, directory: Path, program: Sequence[str] = (str(REPOSITORY / "train.py"),)):
        self.directory = directory
        self._program = program
        directory.parent.mkdir(parents=True, exist_ok=True)
        self._config = directory.parent / "config.yaml"
        config.save(self._config)

    def run(self, number: int = 0, *, after: int = 0, writing: bool = False, delay: float = 0.0) -> int:
        """Runs to the end or until a signal.

        Args:
            number: The signal to send; 0 sends none.
            after: Steps after which it is sent.
            writing: Wait until a checkpoint is being written.
            delay: Seconds to wait after that.

        Returns: the exit code, negative if the signal ended the process.
        """
        goal = self.steps() + after
        # Compiling takes longer than everything else, and the graph is the same each time.
        environment = {
            **os.environ,
            "MS_COMPILER_CACHE_ENABLE": "1",
            "PYTHONPATH": str(REPOSITORY / "src"),
            "MS_COMPILER_CACHE_PATH": str(self.directory.parent / "compiled"),
        }
        with open(self.directory.parent / f"{self.directory.name}.log", "a") as log:
            process = subprocess.Popen(
                [
                    sys.executable,
                    *self._program,
                    "--config",
                    str(self._config),
                    "--resume",
                    "auto",
                    "--output_dir",
                    str(self.directory),
                ],
                env=environment,
                stdout=log,
                stderr=log,
            )
            # This run removes the unfinished files of the previous one when it starts.
            left = set(self.directory.glob(".last.*"))
            while number and process.poll() is None:
                if self.steps() >= goal and (not writing or set(self.directory.glob(".last.*")) - left):
                    time.sleep(delay)
                    process.send_signal(number)
                    break
                time.sleep(0.0005)
            return process.wait()

    def steps(self) -> int:
        """Number of steps in steps.csv."""
        file = self.directory / "steps.csv"
        return file.read_bytes().count(b"\n") - 1 if file.exists() else 0


def differences(one: Path, other: Path) -> list[str]:
    """Names of parameters and files in which two runs differ."""
    from coupalign.checkpoints.state import read_state

    found = []
    (left, _), (right, _) = (read_state(each / "last.ckpt") for each in (one, other))
    for name in sorted({*left, *right}):
        if name not in left or name not in right or left[name].asnumpy().tobytes() != right[name].asnumpy().tobytes():
            found.append(name)
    for name in ("steps.csv", "curve.csv"):
        if _figures(one / name) != _figures(other / name):
            found.append(name)
    return found


def _figures(path: Path) -> list[dict]:
    """Rows of a table without the times."""
    with open(path, encoding="utf-8", newline="") as file:
        return [{name: value for name, value in row.items() if name not in TIMES} for row in csv.DictReader(file)]


if __name__ == "__main__":
    raise SystemExit(main())
