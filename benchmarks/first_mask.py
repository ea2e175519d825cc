"""Time and peak memory of predict.py from its start to the end of one prediction, in a first and in a later process.

    python -m benchmarks.random_checkpoint --output_dir runs/random
    python -m benchmarks.first_mask --checkpoint runs/random/best.ckpt

Each round runs it with an empty cache of compiled graphs, and again with the graph that this left. Their ratios are taken
within a round. The kernels are compiled beforehand.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from coupalign.cli import CHECKPOINT, command, option, parse_arguments
from coupalign.files import REPOSITORY, cache_directory

# No module that takes much memory is imported: the peak of a child process starts at its parent's.
OPTIONS = [CHECKPOINT, option("--rounds INT", "runs of each", default=1)]
IMAGE = REPOSITORY / "assets/examples/val_000000.png"


@command
def main(argv: Sequence[str] | None = None) -> int:
    _, args = parse_arguments(__doc__, argv, OPTIONS)
    rows: dict[str, list[tuple[float, float, float]]] = {"first": [], "later": []}
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as directory:
            for name in rows:
                rows[name].append(_run(args.checkpoint, Path(directory)))
                print(f"{name}: {rows[name][-1][0]:.1f} s, processor {rows[name][-1][1]:.1f} s,", end=" ")
                print(f"peak {rows[name][-1][2]:.2f} GB", flush=True)
    for i, what in enumerate(("time", "processor time", "peak memory")):
        ratios = [later[i] / first[i] for first, later in zip(*rows.values(), strict=True)]
        print(f"{what} of the later process, of the first: {statistics.median(ratios):.2f}")
    return 0


def _run(checkpoint: str, directory: Path) -> tuple[float, float, float]:
    """Seconds, seconds of processor time, and peak resident memory in GB (10^9 bytes). `directory` holds the cache."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(directory)}
    for kernels in cache_directory().glob("kernels-*.so"):
        link = directory / "coupalign" / kernels.name
        link.parent.mkdir(exist_ok=True)
        if not link.exists():
            link.symlink_to(kernels)
    with tempfile.TemporaryDirectory() as output:
        command_line = [sys.executable, str(REPOSITORY / "predict.py"), "--checkpoint", checkpoint, "--output", output]
        start = time.perf_counter()
        process = subprocess.Popen(
            [*command_line, "--image", str(IMAGE), "--expression", "the red circle"],
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit("predict.py failed")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    raise SystemExit(main())
