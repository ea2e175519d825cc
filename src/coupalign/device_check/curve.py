"""The first 20 steps of the quick start's training, in each precision, and a training that is resumed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from mindspore import Tensor

from coupalign import devices
from coupalign.checkpoints.state import Progress, read_state, restore, save_state
from coupalign.config import Config, load_config
from coupalign.device_check.quickstart import CONFIG, STEPS, quickstart_batches, read_table
from coupalign.device_check.rows import Outcome
from coupalign.model import build_model
from coupalign.training.build import build_step
from coupalign.training.step import LOSSES, TrainStep

EARLY = 8  # steps before training has amplified differences of rounding
# Relative tolerance of the losses of the early steps and of all steps. On the CPU, float16 differs by 6e-4 and 2.3e-2.
TOLERANCES = {"fp32": (1e-4, 2e-1), "fp16": (5e-3, 2e-1), "bf16": (4e-2, 4e-1)}
SAVED_AT, RESUMED_STEPS, RESUME_TOLERANCE = 10, 3, 1e-5
STATE, FOUND = "quickstart.ckpt", "quickstart_losses.npy"


def compare_curve(config: Config, precision: str, directory: Path) -> Outcome:
    """Compares the losses with those of the CPU in fp32; in fp32 it saves the state for ``compare_resumed``."""
    config = _quickstart(config, precision)
    step, batches = _step(config), list(quickstart_batches(config))
    expected = np.array([[float(row[name]) for name in LOSSES] for row in read_table(STEPS)[: len(batches)]])
    found = _train(step, batches[:SAVED_AT], config.run.seed, 0)
    if precision == "fp32":
        save_state(directory / STATE, step.state(), Progress(config.as_dict(), ""))
    found = np.concatenate([found, _train(step, batches[SAVED_AT:], config.run.seed, SAVED_AT)])
    if precision == "fp32":
        np.save(directory / FOUND, found)
    if np.isnan(found).any():
        return Outcome(note=f"update {int(np.isnan(found).any(1).argmax()) + 1} was skipped", status="FAIL")
    errors = np.abs(found / expected - 1).max(1)
    early, late = float(errors[:EARLY].max()), float(errors.max())
    early_tolerance, late_tolerance = TOLERANCES[precision]
    if late / late_tolerance > early / early_tolerance:
        return Outcome(late, late_tolerance, f"losses of {len(found)} steps (the first {EARLY}: {early:.1e})")
    return Outcome(early, early_tolerance, f"losses of the first {EARLY} steps (all {len(found)}: {late:.1e})")


def compare_resumed(config: Config, directory: Path) -> Outcome:
    """Steps of a new model that continues from the saved state, against those of the training that saved it."""
    if not (directory / FOUND).exists():
        return Outcome(note="curve_fp32 wrote no state to resume from: check that row first", status="FAIL")
    config, last = _quickstart(config, "fp32"), SAVED_AT + RESUMED_STEPS
    step, (saved, _) = _step(config), read_state(directory / STATE)
    restore(directory / STATE, step.state(), saved)
    batches = list(quickstart_batches(config))[SAVED_AT:last]
    found, expected = _train(step, batches, config.run.seed, SAVED_AT), np.load(directory / FOUND)[SAVED_AT:last]
    error = float(np.abs(found / expected - 1).max())
    return Outcome(error, RESUME_TOLERANCE, f"losses of steps {SAVED_AT + 1} to {last}")


def _quickstart(config: Config, precision: str) -> Config:
    """The configuration of the quick start on this device."""
    return load_config(CONFIG, {**vars(config.run), "precision": precision, "seed": load_config(CONFIG).run.seed})


def _step(config: Config) -> TrainStep:
    devices.set_up(config.run)  # seeds the initial weights
    # The warm-up is longer than 20 steps, so the number of steps per epoch does not matter.
    return build_step(config, build_model(config), 100, config.training.batch_size).set_train()


def _train(step: TrainStep, batches: Iterable[dict[str, np.ndarray]], seed: int, done: int) -> np.ndarray:
    """Losses of each step after `done` steps, (steps, 3); NaN for a step that was skipped."""
    losses = []
    for number, batch in enumerate(batches, done + 1):
        result = step.update([{name: Tensor(array) for name, array in batch.items()}], seed, number, [0])
        values = result.losses.asnumpy()
        losses.append(values if result.finite.asnumpy() else np.full_like(values, np.nan))
    return np.array(losses)
