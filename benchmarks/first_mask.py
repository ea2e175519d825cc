"""Time and peak memory of predict.py from its start to the end of one prediction.

python -m benchmarks.random_checkpoint --output_dir runs/random
python -m benchmarks.first_mask --checkpoint runs/random/best.ckpt
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from coupalign.cli import CHECKPOINT, command, option, parse_arguments
from coupalign.files import REPOSITORY

# No module that takes much memory is imported: the peak of a child process starts at its parent's.
OPTIONS = [CHECKPOINT, option("--rounds INT", "number of runs", default=1)]
IMAGE = REPOSITORY / "assets/examples/val_000000.png"


@command
def main(argv: Sequence[str] | None = None) -> int:
    _, args = parse_arguments(__doc__, argv, OPTIONS)
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as output:
            program = [sys.executable, str(REPOSITORY / "predict.py"), "--checkpoint", args.checkpoint]
            start = time.perf_counter()
            process = subprocess.Popen(
                [*program, "--output", output, "--image", str(IMAGE), "--expression", "the red circle"],
                stdout=subprocess.DEVNULL,
            )
            _, status, usage = os.wait4(process.pid, 0)
        if status:
            return 1
        processor, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9
        print(f"{time.perf_counter() - start:.1f} s, processor {processor:.1f} s, peak {peak:.2f} GB", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
