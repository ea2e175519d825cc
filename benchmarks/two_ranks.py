r"""Trains and evaluates in one process and in several ranks on this machine's CPU, and compares the results.

    python -m benchmarks.two_ranks --config benchmarks/smallest.yaml --batch_size 8 --learning_rate 1e-4 \
        --output_dir runs/two_ranks

Conditions for each variant of the configuration:

synchronised, frozen  losses of all updates agree within 1e-5
accumulation          frozen, with accumulation_steps 2 on each rank, and 1 in one process: losses agree within 1e-5
fp16                  frozen: losses agree within 5e-2, which is fp16's rounding; the same steps are skipped, and the
                      loss scale is equal at the end
local                 inputs of the first norms do not depend on norms: with almost constant weights, their moving mean,
                      averaged over ranks, agrees with one process within 1e-5; losses may differ

Then one checkpoint is evaluated; all samples must have equal results.

--throughput instead compares the samples per second of training with one core per rank and a batch of batch_size on each:

    taskset -c 0,1 python -m benchmarks.two_ranks --throughput --config configs/refshapes_tiny.yaml --num_workers 1 \
        --steps 12 --samples 10 --warmup_steps 5
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coupalign.cli import command, option, parse_arguments
from coupalign.config import Config, load_config
from coupalign.errors import UserError
from coupalign.files import REPOSITORY

VARIANTS = {  # keys of both, additional keys of several ranks, tolerance of the losses
    "synchronised": ({"batch_norm": "synchronised"}, {}, 1e-5),
    "frozen": ({"batch_norm": "frozen"}, {}, 1e-5),
    "accumulation": ({"batch_norm": "frozen"}, {"accumulation_steps": 2}, 1e-5),
    "fp16": ({"batch_norm": "frozen", "precision": "fp16"}, {}, 5e-2),
    "local": ({"batch_norm": "local", "learning_rate": 1e-12, "end_learning_rate": 1e-13}, {}, np.inf),
}
LOSSES = ("loss", "segmentation_loss", "auxiliary_loss")


OPTIONS = [
    option("--ranks INT", "ranks to compare with", default=2),
    option("--steps INT", "smallest number of updates to compare", default=50),
    option("--samples INT", "samples to evaluate", default=101),
    option("--variants TEXT,…", "variants to run", default=",".join(VARIANTS)),
    option("--throughput", "compare one rank on one core with several, each on its own"),
]


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, args = parse_arguments(__doc__, argv, OPTIONS)
    directory = Path(config.run.output_dir).resolve()
    variants = args.variants.split(",")
    unknown = sorted(set(variants) - set(VARIANTS))
    if unknown:
        raise UserError(f"--variants: unknown variant {unknown[0]!r}; variants: {', '.join(VARIANTS)}")
    data = directory / "data"
    # At least this many updates in one epoch; val has a tenth of the samples of train.
    ranks = args.ranks if args.throughput else 1
    expressions = max(config.training.batch_size * args.steps * ranks, 10 * args.samples)
    _run(
        "data",
        directory,
        ["python", "prepare_data.py", "--output", str(data), "--expressions", str(expressions)],
        config,
    )
    common = {
        **config.as_dict(),
        "data_dir": str(data),
        "resume": "never",
        "epochs": 1,
        "decay_epochs": 1,
        "eval_limit": args.samples,
        "eval_splits": ["val"],
        "keep_checkpoints": 0,
    }
    if args.throughput:
        return _throughput(directory, common, args.ranks)
    failed = []
    for variant in variants:
        keys, of_several, tolerance = VARIANTS[variant]
        one = _train(f"{variant}_one", directory, {**common, **keys}, 1)
        several = _train(f"{variant}_several", directory, {**common, **keys, **of_several}, args.ranks)
        if not _agree(variant, one, several, args.steps, tolerance):
            failed.append(variant)
    if not _evaluations_agree(directory, variants[0], common, args.ranks):
        failed.append("evaluation")
    if failed:
        raise UserError(f"one process and several ranks differ in {', '.join(failed)}")
    return 0


def _throughput(directory: Path, common: dict[str, Any], ranks: int) -> int:
    """Prints samples per second of an epoch, without its first step, which compiles."""
    rates = []
    for count in (1, ranks):
        values = {**common, "batch_size": count * common["batch_size"], "batch_norm": "synchronised"}
        epoch = _rows(_train(f"throughput_{count}", directory, values, count, bound=True) / "curve.csv")[-1]
        rates.append(float(epoch["samples_per_second"]))
        print(f"{count} rank(s), one core each: {rates[-1]} samples per second, {epoch['step']} steps", flush=True)
    print(f"ratio {rates[1] / rates[0]:.2f}")
    return 0


def _train(name: str, directory: Path, values: dict[str, Any], ranks: int, bound: bool = False) -> Path:
    """Trains, with ``bound`` on one core per rank. Returns the directory of the run."""
    output = directory / name
    launcher = _launcher(ranks, directory / f"{name}_ranks")
    if bound:
        launcher = ["taskset", "-c", "0", *launcher] if ranks == 1 else [*launcher, "--bind_core=True"]
    _run(
        name,
        directory,
        [*launcher, "train.py"],
        load_config(overrides={**values, "output_dir": str(output)}),
    )
    return output


def _agree(variant: str, one: Path, several: Path, steps: int, tolerance: float) -> bool:
    """Compares two runs, prints the result and returns whether they agree."""
    rows, others = (_rows(path / "steps.csv")[:steps] for path in (one, several))
    apart = [
        max(abs(float(b[loss]) - float(a[loss])) / max(abs(float(a[loss])), 1e-12) for loss in LOSSES)
        for a, b in zip(rows, others)
        if a["skipped"] == "0"
    ]
    skipped = [[row["step"] for row in each if row["skipped"] != "0"] for each in (rows, others)]
    line = (
        f"{variant}: {len(rows)} updates, loss {float(rows[0]['loss']):.4f} to {float(rows[-1]['loss']):.4f}, "
        f"largest relative difference {max(apart):.1e}; skipped {len(skipped[0])} and {len(skipped[1])}"
    )
    good = len(rows) == len(others) and skipped[0] == skipped[1] and max(apart) <= tolerance
    state, other = (_parameters(path / "last.ckpt") for path in (one, several))
    if variant == "fp16":
        scales = [
            [float(each[name].squeeze()) for name in ("loss_scale", "loss_scale_counter")] for each in (state, other)
        ]
        line += f"; loss scale and counter {scales[0]} and {scales[1]}"
        good &= scales[0] == scales[1]
    if variant == "local":
        means = [name for name in state if name.endswith("moving_mean") and not name.startswith("sound.")]
        off = {name: np.abs(other[name] - state[name]).max() / np.abs(state[name]).max() for name in means}
        same = [name for name in means if off[name] <= 1e-5]
        line += f"; moving means of {len(same)} of {len(means)} norms agree to 1e-5"
        shared = [np.array_equal(other[name], other[f"sound.{name}"]) for name in means]
        good &= len(same) > 0 and all(shared)
    print(line + ("" if good else ": they differ"), flush=True)
    return good


def _evaluations_agree(directory: Path, variant: str, common: dict[str, Any], ranks: int) -> bool:
    tables = []
    for name, count in (("one", 1), ("several", ranks)):
        output = directory / f"evaluation_{name}"
        _run(
            output.name,
            directory,
            [
                *_launcher(count, directory / f"{output.name}_ranks"),
                "eval.py",
                "--checkpoint",
                str(directory / f"{variant}_one/best.ckpt"),
                "--output",
                str(output),
            ],
            load_config(overrides=common),
        )
        tables.append(_rows(output / "val.csv"))
    different = sum(a != b for a, b in zip(*tables))
    print(f"evaluation: {len(tables[0])} samples, {different} differ in intersection or union")
    return not different and len(tables[0]) == len(tables[1])


def _parameters(path: Path) -> dict[str, np.ndarray]:
    from coupalign.checkpoints.state import read_state

    return {name: each.asnumpy() for name, each in read_state(path)[0].items()}


def _launcher(ranks: int, logs: Path) -> list[str]:
    if ranks == 1:
        return ["python"]
    return [
        "msrun",
        f"--worker_num={ranks}",
        f"--local_worker_num={ranks}",
        "--master_port=8119",
        f"--log_dir={logs}",
        "--join=True",
        f"--tail_worker_log={ranks}",
    ]


def _run(name: str, directory: Path, program: list[str], config: Config) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    config.save(directory / f"{name}.yaml")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with open(directory / f"{name}.log", "w") as log:
        code = subprocess.call(
            [*program, "--config", str(directory / f"{name}.yaml")],
            cwd=REPOSITORY,
            stdout=log,
            stderr=log,
            env={**os.environ, "PATH": path},
        )
    if code:
        raise UserError(f"{program[0]} failed with exit code {code}: see {directory / name}.log")


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    raise SystemExit(main())
