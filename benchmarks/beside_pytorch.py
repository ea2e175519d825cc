"""Time and memory of CoupAlign in graph mode on the CPU, compared with the two encoders alone in PyTorch.

    python -m benchmarks.beside_pytorch --of inference --batch_size 1
    python -m benchmarks.beside_pytorch --of training --batch_size 2

Ours is the whole model of the configuration, in training with its losses and its optimiser. PyTorch runs Hugging Face's
Swin and BERT of the same sizes, eager float32, in training with a 1x1 convolution on top and AdamW. Each first runs
alone to measure its peak memory, libraries included. Then they take turns, and the script prints the median of the
per-round ratios. If both do not fit into memory, it ends with the times of each alone. Hugging Face's Swin cannot run
feature maps smaller than its window, which the small configuration has: use --image_size 192, or --alone ours.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks import pytorch_encoders
from benchmarks.resident import resident
from coupalign.cli import command, option, parse_arguments
from coupalign.config import Config
from coupalign.errors import UserError
from coupalign.files import REPOSITORY

PAUSE = 0.3  # seconds, after which the threads of the previous run sleep


OPTIONS = [
    option("--of inference|training", "what to measure", default="inference"),
    option("--rounds INT", "turns of each", default=5),
    option("--alone ours|pytorch", "run only one of them and print its peak memory"),
]


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, args = parse_arguments(__doc__, argv, OPTIONS)
    inputs = _inputs(config)
    if args.alone:
        run = _started(args.alone, args.of, config, inputs)
        _say(args.alone, config, [_seconds(run) for _ in range(args.rounds)])
        print("peak memory, GB:", resident("VmHWM") / 1e9)
        return 0
    peaks = [_peak(name, sys.argv[1:] if argv is None else argv) for name in ("ours", "pytorch")]
    print(f"peak memory: {peaks[0]:.2f} GB, PyTorch {peaks[1]:.2f} GB, ratio {peaks[0] / peaks[1]:.2f}", flush=True)
    if _available() < sum(peaks):
        raise UserError(
            f"both together need {sum(peaks):.1f} GB, but {_available():.1f} GB are free: use the times of each alone"
        )
    ours, theirs = (_started(name, args.of, config, inputs) for name in ("ours", "pytorch"))
    pairs = [(_seconds(ours), _seconds(theirs)) for _ in range(args.rounds)]
    for name, times in zip(("CoupAlign", "PyTorch, encoders alone"), zip(*pairs, strict=True), strict=True):
        _say(name, config, times)
    ratios = [a / b for a, b in pairs]
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
    return 0


def _say(name: str, config: Config, times: Sequence[float]) -> None:
    print(
        f"{name}: {1000 * statistics.median(times):.0f} ms ({1000 * min(times):.0f}-{1000 * max(times):.0f}), "
        f"{config.training.batch_size / statistics.median(times):.1f} samples per second"
    )


def _started(who: str, what: str, config: Config, inputs: Sequence[np.ndarray]) -> Callable[[], None]:
    """A function that runs one of them; it has run once already."""
    start = time.perf_counter()
    run = _runner(who, what)(config, *inputs)
    run()
    print(f"{who}: first pass after {time.perf_counter() - start:.1f} s, building and compilation included", flush=True)
    return run


def _runner(who: str, what: str) -> Callable[..., Callable[[], None]]:
    if who == "pytorch":
        return getattr(pytorch_encoders, what)
    return {"inference": _our_inference, "training": _our_training}[what]


def _our_inference(config: Config, image: np.ndarray, ids: np.ndarray, mask: np.ndarray) -> Callable[[], None]:
    from mindspore import Tensor

    from coupalign.devices import set_up
    from coupalign.kernels import use_kernels
    from coupalign.model import build_model

    set_up(config.run)
    model = use_kernels(build_model(config), config.run).set_train(False)
    inputs = Tensor(image), Tensor(ids), Tensor(mask)

    def run() -> None:
        model(*inputs).asnumpy()

    return run


def _our_training(config: Config, image: np.ndarray, ids: np.ndarray, mask: np.ndarray) -> Callable[[], None]:
    from mindspore import Tensor

    from coupalign.devices import set_up
    from coupalign.kernels import use_kernels, use_kernels_in_update
    from coupalign.loss import PixelContrastiveLoss
    from coupalign.model import build_model
    from coupalign.training.optimizer import make_optimizer
    from coupalign.training.step import Objective, TrainStep

    set_up(config.run)
    model = use_kernels(build_model(config), config.run)
    contrast = PixelContrastiveLoss(config.losses.aux_temperature, config.losses.aux_normalize, config.losses.aux_log)
    objective = Objective(model, contrast, config.losses.aux_loss_weight)
    optimizer = make_optimizer(config.training, model.trainable_params(), 1000)
    step = TrainStep(objective, optimizer, config.training.max_grad_norm, config.training.batch_size)
    use_kernels_in_update(step.apply_update, config.run)
    step.set_train(True)
    target = np.zeros((len(image), config.model.image_size, config.model.image_size), np.float32)
    side = int(config.model.image_size * 0.15**0.5)  # 15 % of the pixels
    target[:, :side, :side] = 1
    batch = {"image": Tensor(image), "token_ids": Tensor(ids), "token_mask": Tensor(mask), "mask": Tensor(target)}
    numbers = iter(range(1_000_000))

    def run() -> None:
        step.update([batch], config.run.seed, next(numbers), [0])[0][0].asnumpy()

    return run


def _inputs(config: Config) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    image = random.standard_normal(
        (config.training.batch_size, 3, config.model.image_size, config.model.image_size)
    ).astype(np.float32)
    ids = random.integers(
        config.model.bert_vocab_size, size=(config.training.batch_size, config.model.max_tokens)
    ).astype(np.int32)
    return image, ids, np.ones_like(ids)


def _seconds(run: Callable[[], None]) -> float:
    time.sleep(PAUSE)
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _available() -> float:
    """Memory that is available without swapping, GB (10^9 bytes). Linux only."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024 / 1e9


def _peak(who: str, arguments: Sequence[str]) -> float:
    """Peak resident memory, GB (10^9 bytes), of a process that runs only one of them."""
    command_line = [sys.executable, "-m", "benchmarks.beside_pytorch", *arguments, "--alone", who, "--rounds", "2"]
    done = subprocess.run(command_line, check=True, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    print("alone,", done.stdout.replace("\n", "; ").strip("; "), flush=True)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    raise SystemExit(main())
