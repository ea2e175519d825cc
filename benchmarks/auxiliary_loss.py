"""Time and memory of the auxiliary loss, forward and backward, compared with PyTorch on all pairs of pixels.

    python -m benchmarks.auxiliary_loss

The features are (2, 256, 112, 112), and 15 % of the pixels of each mask belong to the referent. Memory is the increase
from before the pass to its peak, after libraries, inputs and our compiled graph are loaded; each form and size runs in
its own process. Times are measured in rounds in which the forms take turns. The script prints the median of the
per-round ratios. "rectangle" is PyTorch on positive against negative pixels only, which is less plain but less work.
The last part uses a small feature map of the size and batch of RefShapes. It needs PyTorch.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.resident import resident

PAPER, SMALL = (2, 256, 112, 112), (16, 48, 24, 24)
TEMPERATURE = 0.1


def case(shape: tuple[int, int, int, int], share: float) -> tuple[np.ndarray, np.ndarray]:
    """Features (B, d, h, w) and masks (B, h, w) with a disc that covers `share` of the pixels."""
    batch, _, height, width = shape
    rows, columns = np.ogrid[:height, :width]
    distance = np.hypot(rows - height / 2, columns - width / 2)
    mask = (distance <= np.quantile(distance, share)).astype(np.float32)
    return np.random.default_rng(0).standard_normal(shape, np.float32), np.repeat(mask[None], batch, 0)


class Ours:
    """PixelContrastiveLoss in graph mode."""

    def __init__(self) -> None:
        os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
        import mindspore
        from mindspore import nn

        from coupalign.loss import PixelContrastiveLoss

        class Both(nn.Cell):  # a Cell, because only Cells can be compiled before they run
            def __init__(self) -> None:
                super().__init__()
                self.value_and_grad = mindspore.value_and_grad(PixelContrastiveLoss(TEMPERATURE))

            def construct(self, features: mindspore.Tensor, mask: mindspore.Tensor) -> Any:
                return self.value_and_grad(features, mask)

        mindspore.set_context(mode=mindspore.GRAPH_MODE, device_target="CPU")
        self.tensor = mindspore.Tensor
        self.both = Both()

    def inputs(self, features: np.ndarray, mask: np.ndarray) -> tuple[Any, Any]:
        tensors = self.tensor(features), self.tensor(mask)
        self.both.compile(*tensors)
        return tensors

    def run(self, features: Any, mask: Any) -> tuple[float, Any]:
        """Loss and its gradient with respect to the features."""
        value, gradient = self.both(features, mask)
        return float(value), gradient


class AllPairs:
    """The loss as the paper states it: similarities of all pairs of pixels of an image, then a mask."""

    def inputs(self, features: np.ndarray, mask: np.ndarray) -> tuple[Any, Any]:
        import torch

        return torch.from_numpy(features).requires_grad_(), torch.from_numpy(mask)

    def run(self, features: Any, mask: Any) -> tuple[float, Any]:
        """Loss and its gradient with respect to the features."""
        features.grad = None
        value = self.loss(features, mask)
        value.backward()
        return value.item(), features.grad

    def loss(self, features: Any, mask: Any) -> Any:
        import torch
        from torch.nn.functional import normalize

        y = normalize(features.flatten(2).transpose(1, 2), dim=-1, eps=1e-6)
        sides = torch.stack((mask.flatten(1), 1 - mask.flatten(1)), -1)
        shares = sides / sides.sum(1, keepdim=True)
        prototypes = normalize(shares.transpose(1, 2) @ y, dim=-1, eps=1e-6)
        own = (y @ prototypes.transpose(1, 2) * sides).sum(-1, keepdim=True) / TEMPERATURE
        scores = y @ y.transpose(1, 2) / TEMPERATURE
        scores = scores.masked_fill(sides[:, :, None, 0] == sides[:, None, :, 0], -torch.inf)
        denominator = torch.logsumexp(torch.cat((own, scores), -1), -1)
        return ((denominator - own.squeeze(-1)) * shares.sum(-1)).sum(-1).mean()


class Rectangle(AllPairs):
    """The loss on positive against negative pixels only, selected image by image."""

    def loss(self, features: Any, mask: Any) -> Any:
        import torch
        from torch.nn.functional import normalize, softplus

        terms = []
        for y, inside in zip(normalize(features, dim=1, eps=1e-6), mask > 0.5):
            sides = y[:, inside].T, y[:, ~inside].T
            scores = sides[0] @ sides[1].T / TEMPERATURE
            for side, axis in zip(sides, (1, 0)):
                own = side @ normalize(side.mean(0), dim=0, eps=1e-6) / TEMPERATURE
                terms.append(softplus(torch.logsumexp(scores, axis) - own).mean())
        return torch.stack(terms).sum() / len(features)


FORMS: dict[str, Callable[[], Any]] = {"ours": Ours, "all pairs": AllPairs, "rectangle": Rectangle}


def peak(name: str, side: int, share: float) -> float:
    """MB (10^6 bytes) that one forward and backward pass adds at its peak, with the paper's batch and width."""
    form = FORMS[name]()
    form.run(*form.inputs(*case((*PAPER[:2], 16, 16), share)))
    inputs = form.inputs(*case((*PAPER[:2], side, side), share))
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets the peak
    before = resident("VmRSS")
    form.run(*inputs)
    return (resident("VmHWM") - before) / 1e6


def peak_elsewhere(name: str, side: int, share: float) -> float:
    """`peak` in a new process."""
    command = [sys.executable, "-m", "benchmarks.auxiliary_loss", "--peak", name, str(side), "--share", str(share)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise SystemExit(process.stderr)
    return float(process.stdout.split()[-1])


def seconds(shape: tuple[int, int, int, int], share: float, rounds: int) -> dict[str, np.ndarray]:
    """Wall time and processor time of each form, (rounds, 2). Raises AssertionError if losses or gradients differ."""
    forms = {name: form() for name, form in FORMS.items()}
    inputs = {name: form.inputs(*case(shape, share)) for name, form in forms.items()}
    results = {name: forms[name].run(*inputs[name]) for name in FORMS}
    for value, gradient in results.values():
        expected, expected_gradient = results["rectangle"]
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        scale = float(abs(expected_gradient).max())
        np.testing.assert_allclose(np.asarray(gradient), np.asarray(expected_gradient), atol=1e-4 * scale)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in FORMS}
    for _ in range(rounds):
        for name, form in forms.items():
            start, busy = time.perf_counter(), time.process_time()
            form.run(*inputs[name])
            found[name].append((time.perf_counter() - start, time.process_time() - busy))
    return {name: np.array(each) for name, each in found.items()}


def report(shape: tuple[int, int, int, int], share: float, rounds: int) -> None:
    times = seconds(shape, share, rounds)
    print(
        f"\nfeatures {shape}, {share:.0%} positive, {rounds} rounds: median ms and ratio of ours, for wall time and "
        "processor time"
    )
    for name, each in times.items():
        milliseconds = np.median(each, 0) * 1e3
        ratios = np.sort(times["ours"] / each, 0)
        line = f"{name:12}"
        for i in range(2):
            line += f"{milliseconds[i]:9.1f}{np.median(ratios[:, i]):8.3f} ({ratios[0, i]:.3f}-{ratios[-1, i]:.3f})"
        print(line, flush=True)


def report_turns(batch: int, share: float) -> None:
    """Prints how often each loop over tiles turns, forward and backward, at the paper's size."""
    from coupalign.devices import default_tile

    pixels = PAPER[2] * PAPER[3]
    for on_cpu in (True, False):
        tile = default_tile(batch, pixels, on_cpu)
        turns, most = (math.ceil(part * pixels / tile) for part in (min(share, 1 - share), 0.5))
        megabytes = batch * tile * pixels * 4 / 1e6
        name = "CPU" if on_cpu else "GPU and Ascend"
        print(f"batch {batch:2}, {name}: {turns} turns, {most} for any mask; scores of a tile {megabytes:.0f} MB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="(default: 7)")
    parser.add_argument("--share", type=float, default=0.15, help="share of positive pixels (default: 0.15)")
    parser.add_argument(
        "--peak", nargs=2, metavar=("FORM", "SIDE"), help="measure only the memory of one form at one size"
    )
    args = parser.parse_args()
    if args.peak:
        print(peak(args.peak[0], int(args.peak[1]), args.share))
        return 0
    side = PAPER[2]
    found = {name: peak_elsewhere(name, side, args.share) for name in FORMS}
    print(f"features {PAPER}, {args.share:.0%} positive: added memory; ratio to all pairs")
    for name, megabytes in found.items():
        print(f"{name:12}{megabytes:9.0f} MB{megabytes / found['all pairs']:8.3f}")
    doubled = peak_elsewhere("ours", 2 * side, args.share)
    print(f"ours at twice the side{doubled:9.0f} MB, {doubled / found['ours']:.2f} times as much")
    for batch in (PAPER[0], 16):
        report_turns(batch, args.share)
    report(PAPER, args.share, args.rounds)
    report(SMALL, args.share, args.rounds * 5)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
