"""Training from a configuration to a best checkpoint."""
from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from src.config import Config
from src.data.dataset import Split
from src.errors import UserError
from src.evaluation.evaluate import evaluate_split
from src.inference.checkpoint import start_from
from src.loss import PixelContrastiveLoss
from src.model import build_model
from src.model.dropout import draw
from src.training.optimizer import make_optimizer
from src.training.record import STEP_COLUMNS, VALIDATION_COLUMNS, Record
from src.training.step import Objective, TrainStep

COLUMNS = ("image", "token_ids", "token_mask", "mask")


def train(config: Config, progress: bool = True) -> Path:
    """Trains a model, evaluating it every ``eval_every`` epochs and after the last.

    Data order, weights and dropout follow from ``seed``: on the CPU the same configuration gives the same losses
    to the last digit.

    Args:
        progress: show a bar on stderr.

    Returns: the directory with config.yaml, steps.csv, curve.csv, last.ckpt, best.ckpt (highest oIoU).

    Raises: UserError for data, checkpoints or a directory that do not fit, and when the loss is no longer finite;
        checkpoints written before stay.
    """
    training, validation = Split(config, config.train_split), Split(config, config.val_split)
    steps_per_epoch = len(epoch_order(config, training, 0)) // config.batch_size
    if steps_per_epoch == 0:
        raise UserError(f"split {config.train_split} has fewer samples than batch_size {config.batch_size}: "
                        "make it smaller")
    model = build_model(config)
    if config.init_checkpoint:
        print(start_from(config.init_checkpoint, model), flush=True)
    weights = model.parameters_dict()  # before dropout is given a parameter that is none of the model's
    contrast = PixelContrastiveLoss(config.aux_temperature, config.aux_normalize, config.aux_log)
    objective = Objective(model, contrast, config.aux_loss_weight)
    optimizer = make_optimizer(config, model.trainable_params(), steps_per_epoch)
    step = TrainStep(objective, optimizer, config.max_grad_norm)
    record = Record(config)

    started = time.monotonic()
    for epoch in range(config.epochs):
        step.set_train(True)
        values = _train_epoch(config, training, step, record, epoch, steps_per_epoch, progress)
        score = None
        if (epoch + 1) % config.eval_every == 0 or epoch + 1 == config.epochs:
            model.set_train(False)
            result = evaluate_split(model, config, validation, config.val_split, config.eval_limit, progress)
            values.update({name: result.metrics[name] for name in VALIDATION_COLUMNS})
            score = values["oIoU"]
        values["seconds"] = round(time.monotonic() - started, 1)
        record.epoch(values)
        best = record.checkpoint(weights, score)
        print(_summary(config, values, best), flush=True)
    return record.directory


def epoch_order(config: Config, split: Split, epoch: int) -> np.ndarray:
    """Rows of the split in the order in which an epoch (0, 1, …) sees them.

    Raises: UserError where the split has no expressions of one of ``train_families``.
    """
    rows = split.indices(config.train_sentences, config.seed + epoch)
    if config.train_families != ("all",):
        families = split.records["family"]
        unknown = sorted(set(config.train_families) - set(families))
        if unknown:
            known = ", ".join(sorted(set(families) - {""})) or "names no families"
            raise UserError(f"train_families has {unknown[0]!r}, but split {config.train_split} has: {known}")
        rows = rows[np.isin(families[rows], config.train_families)]
    return np.random.Generator(np.random.PCG64([config.seed, epoch])).permutation(rows)


def _train_epoch(config: Config, split: Split, step: TrainStep, record: Record, epoch: int, steps_per_epoch: int,
                 progress: bool) -> dict[str, float]:
    """Runs one epoch and returns the means of its row in curve.csv."""
    order = epoch_order(config, split, epoch)
    batches = split.train_batches(order, config.batch_size, config.num_workers)
    rows, timed, since = [], 0, None
    bar = tqdm(total=steps_per_epoch, desc=f"epoch {epoch + 1}/{config.epochs}", unit="step", disable=not progress,
               mininterval=0.5 if sys.stderr.isatty() else 30)
    with bar:
        for batch in batches.create_dict_iterator(num_epochs=1):
            number = epoch * steps_per_epoch + len(rows) + 1
            step.draws.set_data(draw(config.seed, number))
            losses, learning_rate = step(*(batch[column] for column in COLUMNS))
            rows.append([number, *(float(loss.asnumpy()) for loss in losses), float(learning_rate.asnumpy())])
            record.step(rows[-1])
            if not math.isfinite(rows[-1][1]):
                raise UserError(f"the loss is {rows[-1][1]} at step {number}: lower learning_rate, set max_grad_norm, "
                                f"or look at {record.directory}/steps.csv for where it began")
            # The first step compiles: counting it would say nothing about the speed of the rest.
            if since is None:
                since = time.monotonic()
            else:
                timed += 1
            speed = timed * config.batch_size / max(time.monotonic() - since, 1e-9)
            bar.update()
            bar.set_postfix_str(f"loss {rows[-1][1]:.4f} = seg {rows[-1][2]:.4f} + {config.aux_loss_weight:g} aux "
                                f"{rows[-1][3]:.4f}, lr {rows[-1][4]:.2e}, {speed:.1f} samples/s", refresh=False)
    means = dict(zip(STEP_COLUMNS, np.mean(rows, axis=0).tolist()))
    return {**means, "epoch": epoch + 1, "step": rows[-1][0], "samples": rows[-1][0] * config.batch_size,
            "learning_rate": rows[-1][4], "samples_per_second": round(speed, 1)}


def _summary(config: Config, values: dict[str, float], best: bool) -> str:
    line = (f"epoch {values['epoch']}/{config.epochs}: loss {values['loss']:.4f}, "
            f"{values['samples_per_second']} samples/s")
    if "oIoU" in values:
        line += f", {config.val_split} oIoU {values['oIoU']:.4f}, mIoU {values['mIoU']:.4f}"
    return line + (" (best so far)" if best else "")
