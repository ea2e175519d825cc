"""Runs of a study, one after another, each in processes of its own."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from coupalign.config import Config, load_config
from coupalign.errors import UserError
from coupalign.files import make_directory
from coupalign.study.plan import Run, Study

# Keys that may differ when a run is resumed: they do not change what it computes.
ELSEWHERE = ("data_dir", "vocab_file", "device_target", "num_workers", "prefetch", "output_dir", "resume")

_log = logging.getLogger(__name__)


class Child:
    """Runs one process at a time. As a context manager, it passes SIGTERM and Ctrl-C on to the process.

    The processes have sessions of their own, so that Ctrl-C in a terminal reaches them only once and a training saves.
    """

    def __init__(self) -> None:
        self.signal = 0  # number of the first signal
        self._process: subprocess.Popen | None = None
        self._passed_on = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Child:
        self._before = {number: signal.signal(number, self._pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self, log: Path, *arguments: object) -> int:
        """Runs ``coupalign`` with these arguments, and appends its output to `log`. Returns the exit code."""
        command = [sys.executable, "-m", "coupalign", *map(str, arguments)]
        with open(log, "ab") as output:
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
            self._process = subprocess.Popen(command, start_new_session=True, **streams)
            if self.signal and not self._passed_on:  # it arrived before the process; a second one would end it at once
                self._process.terminate()
            code = self._process.wait()
        self._process = None
        return code

    def _pass_on(self, number: int, _: object) -> None:
        self.signal = self.signal or number
        if self._process:
            self._passed_on = True
            self._process.terminate()


def train_missing(
    study: Study, runs: Sequence[Run], base: Config, after: Callable[[], object], child: Any = None
) -> int:
    """Trains and evaluates those of `runs` that are not done, and calls `after` after each that succeeded.

    Rows start from the configuration `base`, which has the ``output_dir`` of the study. Only tests give a `child`.

    Returns: An exit code: 0; 1 if a run failed; 128 plus a signal's number.

    Raises: UserError if a directory holds a run of another configuration. Nothing is trained then.
    """
    configs = {run: study.config(run, base.run.output_dir, base.as_dict()) for run in runs}
    for config in configs.values():
        _check_same(config)
    missing = [run for run, config in configs.items() if not is_done(config)]
    _log.info("%d runs, %d of them done", len(runs), len(runs) - len(missing))
    failed = []
    with child or Child() as child:
        for number, run in enumerate(missing, 1):
            directory = make_directory(configs[run].run.output_dir)
            log, file = directory / "log.txt", directory / "config.yaml"
            configs[run].save(file)
            _log.info("%d/%d: %s, log in %s", number, len(missing), run, log)
            code = child(log, "train", "--config", file) or child(log, "eval", "--checkpoint", directory / "best.ckpt")
            if child.signal:
                _log.warning("stopped: the same command continues from here")
                return 128 + child.signal
            if code:
                failed.append(str(run))
                _log.error("%s failed with exit code %d: %s", run, code, _last_line(log))
                continue
            for path in (*directory.glob("step_*.ckpt"), directory / "last.ckpt"):
                path.unlink(missing_ok=True)  # only resuming needs them
            after()
    if failed:
        _log.error("failed: %s; the same command tries them again", ", ".join(failed))
    return int(bool(failed))


def is_done(config: Config) -> bool:
    """Whether the run of this configuration has been trained and evaluated on all splits."""
    directory = Path(config.run.output_dir, "eval")
    return all((directory / f"{split}.json").exists() for split in config.evaluation.eval_splits)


def _check_same(config: Config) -> None:
    path = Path(config.run.output_dir, "config.yaml")
    if not path.exists():
        return
    before = load_config(path).as_dict()
    for key, value in config.as_dict().items():
        if key not in ELSEWHERE and before[key] != value:
            difference = f"{key} {before[key]!r}, but now it is {value!r}"
            remedy = "choose another --output_dir, or remove that run"
            raise UserError(f"{path.parent} holds a run with {difference}: {remedy}")


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")
