"""Trains and evaluates the same in one process and in several ranks on this machine's CPU, and compares.

Losses of every update have to agree to 1e-5; the evaluation of one checkpoint, sample by sample, to the last digit.

    python -m benchmarks.two_ranks --config configs/refshapes_tiny.yaml --output_dir runs/two_ranks
"""
from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from src.cli import command, parse_arguments
from src.config import Config, load_config
from src.errors import UserError
from src.files import REPOSITORY

TOLERANCE = 1e-5
LOSSES = ("loss", "segmentation_loss", "auxiliary_loss")


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ranks", type=int, default=2, metavar="INT", help="ranks to compare with (default: 2)")
    parser.add_argument("--steps", type=int, default=50, metavar="INT", help="updates to compare, at least (default: 50)")
    parser.add_argument("--samples", type=int, default=101, metavar="INT", help="samples to evaluate (default: 101)")


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, args = parse_arguments(__doc__, argv, _add)
    directory = Path(config.output_dir).resolve()
    data = directory / "data"
    # One epoch of so many updates or more, since val has a tenth of the samples that train has.
    expressions = max(config.batch_size * args.steps, 10 * args.samples)
    _run("data", directory, ["python", "prepare_data.py", "--output", str(data), "--expressions", str(expressions)],
         config)
    trained = {}
    for name, ranks in (("one", 1), ("several", args.ranks)):
        output = directory / name
        run = load_config(overrides={
            **config.as_dict(), "data_dir": str(data), "output_dir": str(output), "resume": "never", "epochs": 1,
            "decay_epochs": 1, "eval_limit": args.samples, "eval_splits": ["val"], "keep_checkpoints": 0})
        print(f"{name}: {ranks} rank(s)", flush=True)
        _run(f"{name}_train", directory, [*_launcher(ranks, directory / f"{name}_ranks"), "train.py"], run)
        _run(f"{name}_eval", directory, [*_launcher(ranks, directory / f"{name}_ranks"), "eval.py", "--checkpoint",
                                         str(directory / "one/best.ckpt"), "--output", str(output / "eval")], run)
        trained[name] = _rows(output / "steps.csv")
    worst = max(abs(float(two[loss]) / float(one[loss]) - 1) for one, two in zip(trained["one"], trained["several"])
                for loss in LOSSES)
    print(f"{len(trained['one'])} updates, loss {float(trained['one'][0]['loss']):.4f} to "
          f"{float(trained['one'][-1]['loss']):.4f}: losses differ by {worst:.1e} at most, relative")
    one, several = (_rows(directory / name / "eval/val.csv") for name in trained)
    different = sum(a != b for a, b in zip(one, several))
    print(f"{len(one)} samples evaluated: {different} differ in intersection or union")
    if len(trained["one"]) != len(trained["several"]) or worst > TOLERANCE or different or len(one) != len(several):
        raise UserError("one process and several ranks are not the same")
    return 0


def _launcher(ranks: int, logs: Path) -> list[str]:
    if ranks == 1:
        return ["python"]
    return ["msrun", f"--worker_num={ranks}", f"--local_worker_num={ranks}", "--master_port=8119", f"--log_dir={logs}",
            "--join=True", f"--tail_worker_log={ranks}"]


def _run(name: str, directory: Path, program: list[str], config: Config) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    config.save(directory / f"{name}.yaml")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with open(directory / f"{name}.log", "w") as log:
        code = subprocess.call([*program, "--config", str(directory / f"{name}.yaml")], cwd=REPOSITORY, stdout=log,
                               stderr=log, env={**os.environ, "PATH": path})
    if code:
        raise UserError(f"{program[0]} ended with exit code {code}: see {directory / name}.log")


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    raise SystemExit(main())
