"""The runs of a study, one after another, each in a process of its own."""

from __future__ import annotations

import csv
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from coupalign.config import Config, load_config
from coupalign.errors import UserError
from coupalign.files import REPOSITORY, make_directory
from coupalign.study.study_file import Run, Study

DONE = "done.json"
LOG = "log.txt"
STARTS = "starts.csv"  # what each start of a run took, those that were stopped or failed too
# What may differ from what a run was begun with: where it runs and where files are.
ELSEWHERE = ("data_dir", "vocab_file", "device_target", "num_workers", "output_dir", "resume")


class Child:
    """Processes, one at a time; a context manager that hands SIGTERM and Ctrl-C on to the one that is there.

    They are no part of the terminal's group, so that Ctrl-C reaches them once, which lets a training save.

    Attributes:
        signal: number of the first that came; 0 if none did.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._process: subprocess.Popen | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Child:
        self._before = {number: signal.signal(number, self._hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self, config: Config, threads: int) -> int:
        """Trains and evaluates a configuration, as ``coupalign.study.child``. Returns: the exit code."""
        directory = make_directory(config.run.output_dir)
        path = directory / "config.yaml"
        config.save(path)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
        }
        if threads:
            environment["OMP_NUM_THREADS"] = str(threads)
        began = time.monotonic(), _processor_seconds()
        with open(directory / LOG, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "coupalign.study.child", "--config", str(path), "--threads", str(threads)],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
            if self.signal:
                self._process.terminate()
            code = self._process.wait()
        with open(directory / STARTS, "a", newline="", encoding="utf-8") as file:
            took = time.monotonic() - began[0], _processor_seconds() - began[1]
            csv.writer(file).writerow([code, *(f"{seconds:.1f}" for seconds in took)])
        return code

    def _hand_on(self, number: int, _: object) -> None:
        self.signal = self.signal or number
        if self._process:
            self._process.terminate()


def train_missing(
    study: Study,
    runs: Sequence[Run],
    base: Config,
    threads: int,
    after: Callable[[], object],
    child: Child | None = None,
) -> int:
    """Trains and evaluates those of `runs` that are not done.

    Args:
        base: what rows start from, with ``output_dir`` of the study.
        threads: that a training computes with; 0 is MindSpore's own choice.
        after: called after each that succeeded.
        child: runs one; tests have their own.

    Returns: an exit code: 0, 1 where a run failed, 128 + a signal's number.

    Raises: UserError, before anything is trained, where a directory holds a run of another configuration.
    """
    configs = {run: study.config(run, base.run.output_dir, base.as_dict()) for run in runs}
    for config in configs.values():
        _check_same(config)
    missing = [run for run, config in configs.items() if not Path(config.run.output_dir, DONE).exists()]
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them done", flush=True)
    failed = []
    with child or Child() as child:
        for number, run in enumerate(missing, 1):
            log, started = Path(configs[run].run.output_dir, LOG), time.monotonic()
            print(f"{number}/{len(missing)}: {run}, log in {log}", flush=True)
            code = child(configs[run], threads)
            if child.signal:
                print("stopped: the same command goes on from here", file=sys.stderr)
                return 128 + child.signal
            if code:
                failed.append(run)
                print(f"  {run} failed with exit code {code}: {_last_line(log)}", file=sys.stderr, flush=True)
                continue
            print(f"  done in {time.monotonic() - started:.0f} s", flush=True)
            after()
    if failed:
        print(f"failed: {', '.join(map(str, failed))}; the same command tries them again", file=sys.stderr)
    return int(bool(failed))


def read_starts(directory: Path) -> tuple[float, float]:
    """Seconds by the clock, and of processors' time, of all starts of a run. Raises: OSError, ValueError."""
    with open(directory / STARTS, newline="", encoding="utf-8") as file:
        rows = [(float(seconds), float(processors)) for _, seconds, processors in csv.reader(file)]
    return sum(row[0] for row in rows), sum(row[1] for row in rows)


def _processor_seconds() -> float:
    """Of all processes that this one waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _check_same(config: Config) -> None:
    path = Path(config.run.output_dir, "config.yaml")
    if not path.exists():
        return
    before = load_config(path).as_dict()
    for key, value in config.as_dict().items():
        if key not in ELSEWHERE and before[key] != value:
            raise UserError(
                f"{path.parent} holds a run with {key} {before[key]!r}, now it is {value!r}: choose "
                "another --output_dir, or remove that run"
            )


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
