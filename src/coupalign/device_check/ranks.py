"""Two ranks that add and average. As a program, one rank: python ranks.py DIRECTORY, started by msrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import mindspore
import numpy as np

from coupalign.config import load_config
from coupalign.device_check.rows import Outcome

CONFIG, TIME_LIMIT = "config.yaml", 200  # seconds


def check_ranks(device_target: str, directory: Path) -> Outcome:
    """Runs two ranks; each writes its largest difference from the exact results."""
    count = 2 if device_target == "CPU" else getattr(mindspore.device_context, device_target.lower()).device_count()
    if count < 2:
        return Outcome(note="one device", status="SKIP")
    port = 20000 + os.getpid() % 10000
    own = ["--worker_num=2", "--local_worker_num=2", f"--master_port={port}", f"--log_dir={directory}", "--join=True"]
    own.append(f"--cluster_time_out={TIME_LIMIT}")
    command = ["msrun", *own, __file__, str(directory)]
    job = subprocess.run(command, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    files = sorted(directory.glob("difference_*.txt"))
    if job.returncode or len(files) != 2:
        lines = "\n".join(path.read_text(errors="replace") for path in sorted(directory.glob("worker_*.log")))
        reason = next((line for line in reversed(lines.splitlines()) if "rror" in line), "no result")
        return Outcome(note=f"msrun ended with {job.returncode}: {reason.strip()[:200]}", status="FAIL")
    return Outcome(max(float(path.read_text()) for path in files), 1e-6, "sum, maximum and mean over 2 ranks")


def main(directory: Path) -> None:
    """The work of one rank, which ends itself if it hangs."""
    signal.alarm(TIME_LIMIT)
    from mindspore import Parameter, Tensor

    from coupalign import devices

    devices.set_up(load_config(directory / CONFIG).run)
    rank = devices.rank()
    sums = devices.all_reduce_sum(np.array([0.5, rank], np.float32))
    found = [sums, np.array([devices.all_reduce_max(rank)])]
    gradients = [Tensor(np.full(shape, 1.0 + 2 * rank, np.float32)) for shape in ((3, 5), (7,))]
    parameters = [Parameter(each, name=f"p{i}") for i, each in enumerate(gradients)]
    found += [each.asnumpy() for each in devices.GradientMean(parameters)(tuple(gradients))]
    expected = [np.array([1.0, 1.0]), np.array([1.0]), np.full((3, 5), 2.0), np.full(7, 2.0)]
    difference = max(float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True))
    (directory / f"difference_{rank}.txt").write_text(str(difference))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
