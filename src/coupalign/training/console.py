"""What a training shows on the console."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping

from tqdm import tqdm

from coupalign.config import LossConfig
from coupalign.training.step import ADDED_LOSSES, LOSSES
from coupalign.training.step_timer import TIME_COLUMNS

GENERALISED = ("gIoU", "N-acc", "T-acc")  # shown where validation has them


def progress_bar(steps: int, done: int, name: str, shown: bool) -> tqdm:
    """A bar on stderr over all `steps` of a training; its remaining time is that of the whole training."""
    seconds = 0.5 if sys.stderr.isatty() else 30
    return tqdm(total=steps, initial=done, desc=name, unit="step", disable=not shown, mininterval=seconds)


def losses_line(figures: Mapping[str, float], losses: LossConfig) -> str:
    """The losses of a step with their factors: Eq 17, and those that are not in the paper."""
    total, segmentation, auxiliary = (figures[name] for name in LOSSES)
    line = f"loss {total:.4f} = seg {segmentation:.4f} + {losses.aux_loss_weight:g} aux {auxiliary:.4f}"
    for name in ADDED_LOSSES:
        if name in figures:
            line += f" + {getattr(losses, f'{name}_weight'):g} {name.removesuffix('_loss')} {figures[name]:.4f}"
    return f"{line}, lr {figures['learning_rate']:.2e}"


def epoch_line(figures: Mapping[str, float], epochs: int, val_split: str, is_best: bool) -> str:
    """The figures of an epoch, by EPOCH_COLUMNS, in one line."""
    line = f"epoch {figures['epoch']}/{epochs}: loss {figures.get('loss', math.nan):.4f}"
    if TIME_COLUMNS[0] in figures:
        data, step, host = (figures[name] for name in TIME_COLUMNS)
        line += (
            f", {figures['samples_per_second']} samples/s ({data:.0f} ms data, {step:.0f} ms step, {host:.0f} ms host)"
        )
    if figures["skipped"]:
        line += f", {figures['skipped']} steps not finite and skipped"
    if "oIoU" in figures:
        line += f", {val_split} oIoU {figures['oIoU']:.4f}, mIoU {figures['mIoU']:.4f}"
    line += "".join(f", {name} {figures[name]:.4f}" for name in GENERALISED if name in figures)
    return line + (" (best so far)" if is_best else "")
