"""Time and memory of training steps of a configuration, by default the paper's, at batch 1, 2, 4, …

As a program, one batch: python -m coupalign.device_check.paper_size CONFIG BATCH
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import mindspore
import numpy as np
from mindspore import Tensor

from coupalign.config import Config, load_config
from coupalign.device_check.rows import Outcome

SAMPLES, STEPS = 16, 3  # samples of an update in the paper; the first step, which compiles, is not timed
TIME_OUT = "not finished within the time of the check"
ROOM = 0.95  # share of the device's memory that may be used


def measure_steps(config: Config, directory: Path, deadline: float) -> Outcome:
    """Runs a process for each batch size until one does not fit, or `deadline` (``time.monotonic``) comes."""
    sizes: dict[int, dict[str, float]] = {}
    recompute, reason, batch = False, "", 1
    while batch <= SAMPLES:
        changed = replace(config, training=replace(config.training, recompute=recompute, accumulation_steps=1))
        changed.save(directory / "paper_size.yaml")
        result = _run(directory / "paper_size.yaml", batch, deadline - time.monotonic())
        if isinstance(result, str):
            reason = f"batch {batch}{' with recompute' * recompute}: {result}"
            if batch > 1 or recompute or result == TIME_OUT:
                break
            recompute = True  # batch 1 does not fit
            continue
        sizes[batch] = result
        batch *= 2
    if not sizes:
        status = "WARN" if TIME_OUT in reason else "FAIL"
        return Outcome(note=f"{reason}; --rows paper_size gives it more time", status=status)
    steps = [f"batch {size} {each['seconds']:.2f} s {each['gigabytes']:.1f} GB" for size, each in sizes.items()]
    fits = max(sizes)
    if TIME_OUT in reason and len(sizes) > 1 and sizes[1]["total"]:
        fits = _extrapolated(sizes)
        reason += f"; by extrapolation batch {fits} fits"
    advice = f"set batch_size {SAMPLES}, accumulation_steps {SAMPLES // fits}, recompute {str(recompute).lower()}"
    return Outcome(note="; ".join([*steps, *([reason] if reason else []), advice]), status="PASS")


def _extrapolated(sizes: dict[int, dict[str, float]]) -> int:
    """The largest batch that fits if memory grows as between the two largest that were measured."""
    (first, low), (last, high) = sorted(sizes.items())[-2:]
    each, fits = (high["gigabytes"] - low["gigabytes"]) / (last - first), last
    while fits < SAMPLES and high["gigabytes"] + (2 * fits - last) * each < ROOM * high["total"]:
        fits *= 2
    return fits


def _run(config: Path, batch: int, seconds: float) -> dict[str, float] | str:
    """What ``main`` measured, or why it did not."""
    command = [sys.executable, "-m", "coupalign.device_check.paper_size", str(config), str(batch)]
    try:
        done = subprocess.run(command, timeout=max(seconds, 1), capture_output=True, text=True, check=False)
    except subprocess.TimeoutExpired:
        return TIME_OUT
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        memory = next((line for line in lines if "emory" in line), "")
        return (memory or (lines or [f"exit code {done.returncode}"])[-1]).strip()[:200]
    return json.loads(done.stdout.splitlines()[-1])


def main(config: Config, batch: int) -> dict[str, float]:
    """Seconds of a step; peak memory and memory of the device in GB (10^9 bytes), the latter 0 if unknown."""
    from coupalign.devices import set_up
    from coupalign.model import build_model
    from coupalign.training.build import build_step

    set_up(config.run)
    step = build_step(config, build_model(config), 100, batch).set_train()
    keys, random = config.model, np.random.default_rng(0)
    words = np.ones((batch, keys.max_tokens), np.int32)
    mask = np.zeros((batch, keys.image_size, keys.image_size), np.float32)
    mask[:, : keys.image_size // 2] = 1  # half of the pixels: the most work for the auxiliary loss
    image = random.standard_normal((batch, 3, keys.image_size, keys.image_size)).astype(np.float32)
    names = ("image", "token_ids", "token_mask", "mask")
    inputs = {name: Tensor(array) for name, array in zip(names, (image, words, words, mask))}
    seconds = []
    for number in range(STEPS):
        start = time.perf_counter()
        step.update([inputs], config.run.seed, number, [0]).losses.asnumpy()
        seconds.append(time.perf_counter() - start)
    device = mindspore.hal.get_device_properties(0)  # None for a CPU
    peak, total = mindspore.runtime.max_memory_allocated(), device.total_memory if device else 0
    return {"seconds": min(seconds[1:]), "gigabytes": peak / 1e9, "total": total / 1e9}


if __name__ == "__main__":
    print(json.dumps(main(load_config(sys.argv[1]), int(sys.argv[2]))))
