"""Training from a configuration to a best checkpoint."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np
from mindspore import Tensor, ops
from mindspore import dataset as ds
from tqdm import tqdm

from coupalign import devices
from coupalign.checkpoints.loading import start_from
from coupalign.checkpoints.state import Progress, check_unchanged, find_state, fingerprint, set_parameters
from coupalign.config import Config
from coupalign.data.dataset import Split
from coupalign.devices import rank, rank_count
from coupalign.errors import UserError
from coupalign.evaluation.evaluate import evaluate_split
from coupalign.kernels import use_kernels, use_kernels_in_update
from coupalign.loss import PixelContrastiveLoss
from coupalign.model import build_model
from coupalign.training.monitor import STEP_COLUMNS, VALIDATION_COLUMNS
from coupalign.training.optimizer import freeze, make_optimizer
from coupalign.training.pictures import Pictures
from coupalign.training.record import Record
from coupalign.training.step import Objective, TrainStep
from coupalign.training.stop import Stopped, StopRequest
from coupalign.training.stopwatch import PARTS, Stopwatch
from coupalign.training.trace import Trace
from coupalign.training.update import STATISTICS


def train(config: Config, progress: bool = True) -> Path:
    """Trains a model, evaluating it every ``eval_every`` epochs and after the last.

    Data order, weights and dropout follow from ``seed``: on the CPU the same configuration gives the same losses
    to the last digit, whether it is trained at a stretch or stopped and resumed. Each of several ranks takes its part
    of every batch; rank 0 alone writes and prints.

    Args:
        progress: show a bar on stderr.

    Returns: the directory with all that Record writes.

    Raises:
        UserError: for data, checkpoints or a directory that do not fit or cannot be written, and after
            ``max_skipped_steps`` steps in a row that were not finite; checkpoints written before stay.
        Stopped: after SIGTERM or SIGINT, when the step is finished and the state saved.
    """
    progress = progress and rank() == 0
    micro_batch, rest = divmod(config.training.batch_size, rank_count() * config.training.accumulation_steps)
    if rest:
        raise UserError(
            f"batch_size {config.training.batch_size} cannot be cut into accumulation_steps "
            f"{config.training.accumulation_steps} for each of {rank_count()} devices: change one of them"
        )
    training, validation = Split(config, config.training.train_split), Split(config, config.training.val_split)
    steps_per_epoch = len(epoch_order(config, training, 0)) // config.training.batch_size
    if steps_per_epoch == 0:
        raise UserError(
            f"split {config.training.train_split} has fewer samples than batch_size {config.training.batch_size}: "
            "make it smaller"
        )
    state = find_state(config)
    if state:
        check_unchanged(state[0], state[2], config, training)
    model = build_model(config)
    if config.training.init_checkpoint and not state:
        _say(start_from(config.training.init_checkpoint, model))
    weights = model.parameters_dict()  # before dropout is given a parameter that is none of the model's
    contrast = PixelContrastiveLoss(config.losses.aux_temperature, config.losses.aux_normalize, config.losses.aux_log)
    objective = Objective(model, contrast, config.losses.aux_loss_weight)
    freeze(model, config.training.frozen)
    use_kernels(model, config)
    if config.training.recompute:
        model.recompute_blocks()
    optimizer = make_optimizer(config, model.trainable_params(), steps_per_epoch)
    step = TrainStep(
        objective,
        optimizer,
        config.training.max_grad_norm,
        micro_batch,
        config.training.accumulation_steps,
        config.run.precision == "fp16",
        config.training.ema_decay,
    )
    use_kernels_in_update(step.conclude, config)
    done = Progress(config=config.as_dict(), data=fingerprint(training))
    if state:
        path, saved, done = state
        set_parameters(path, step.state(), saved)
        done.config = config.as_dict()
        _say(f"going on from {path}, step {done.step}")
    # Also lets all ranks look before the first one writes.
    if devices.largest(done.step) != -devices.largest(-done.step):
        raise UserError(
            f"not every rank finds the same checkpoint in {config.run.output_dir}: give them an output_dir that "
            "they share"
        )
    record = Record(config, state, writes=rank() == 0)
    del state
    if not record.has_best:  # going on elsewhere
        done.best = -1.0
    ds.config.set_prefetch_size(config.data.prefetch)
    trace = Trace(config.training.profile * record.writes, config.run.device_target, record.directory / "profile")
    with StopRequest() as request, closing(record), closing(trace):
        run = _Run(config, training, step, record, done, trace, request, steps_per_epoch, micro_batch, progress)
        try:
            while done.epochs < config.training.epochs:
                step.set_train(True)
                values = run.epoch()
                best, pictures, since = False, Pictures(config, validation), time.monotonic()
                if _validates(config, done.epochs):
                    model.set_train(False)
                    run.share_statistics()
                    with step.averaged():
                        with request.interrupting():
                            result = evaluate_split(
                                model,
                                config,
                                validation,
                                config.training.val_split,
                                config.evaluation.eval_limit,
                                progress,
                                between=request.check,
                                show=pictures if record.shows else None,
                            )
                        values.update({name: result.metrics[name] for name in VALIDATION_COLUMNS})
                        best = values["oIoU"] > done.best
                        if best:
                            done.best = values["oIoU"]
                            record.save_best(weights)
                done.epochs, done.sums, done.skipped = done.epochs + 1, [], 0
                record.epoch({**values, "seconds": round(run.seconds(), 1)}, pictures.drawn)
                run.save()
                run.validation_seconds = time.monotonic() - since
                _say(_summary(config, values, best))
                request.check()
            record.finish()
        except Stopped:
            run.save()
            _say(
                f"stopped by {signal.Signals(request.signal).name} after step {done.step}, saved to "
                f"{record.directory}: --resume auto goes on",
                sys.stderr,
            )
            devices.meet()  # msrun kills all ranks when one has ended like this, also one that is still writing
            raise
    return record.directory


def epoch_order(config: Config, split: Split, epoch: int) -> np.ndarray:
    """Rows of the split in the order in which an epoch (0, 1, …) sees them.

    Raises: UserError where the split has no expressions of one of ``train_families``.
    """
    rows = split.indices(config.training.train_sentences, config.run.seed + epoch)
    if config.training.train_families != ("all",):
        families = split.records["family"]
        unknown = sorted(set(config.training.train_families) - set(families))
        if unknown:
            known = ", ".join(sorted(set(families) - {""})) or "names no families"
            raise UserError(f"train_families has {unknown[0]!r}, but split {config.training.train_split} has: {known}")
        rows = rows[np.isin(families[rows], config.training.train_families)]
    return np.random.Generator(np.random.PCG64([config.run.seed, epoch])).permutation(rows)


@dataclass
class _Run:
    """A training under way: what does not change, and how far it is."""

    config: Config
    split: Split
    step: TrainStep
    record: Record
    done: Progress
    trace: Trace
    request: StopRequest
    steps_per_epoch: int
    micro_batch: int  # samples that this device sees at a time
    progress: bool

    def __post_init__(self) -> None:
        self._started = time.monotonic() - self.done.seconds
        self.validation_seconds = 0.0  # that the last one took
        self._watch = Stopwatch()

    def seconds(self) -> float:
        """Spent on the run, before it was resumed and since."""
        return time.monotonic() - self._started

    def save(self) -> None:
        """Saves the state as it is now. All ranks have to call this at the same step."""
        self.share_statistics()
        self.done.seconds = self.seconds()
        self.record.save(self.step.state(), self.done)

    def share_statistics(self) -> None:
        """Replaces the ranks' moving statistics, which differ where batch_norm is local, by their mean.

        They are linear in what they take in, so it makes no difference how often this is done. Assigned, since what
        set_data puts into a parameter that only a branch of a compiled graph uses does not get there.
        """
        if self.config.model.batch_norm == "local" and rank_count() > 1:
            for name, each in self.step.state().items():
                if name.endswith(STATISTICS):
                    ops.assign(each, Tensor(devices.total(each.asnumpy()) / rank_count()))

    def epoch(self) -> dict[str, float]:
        """Runs what is left of an epoch and returns its row of curve.csv. Raises: Stopped after a step."""
        config, done = self.config, self.done
        start = done.step - done.epochs * self.steps_per_epoch
        end = (done.epochs + 1) * self.steps_per_epoch
        watch = self._watch
        watch.start()
        bar = tqdm(
            total=self.steps_per_epoch,
            initial=start,
            desc=f"epoch {done.epochs + 1}/{config.training.epochs}",
            unit="step",
            disable=not self.progress,
            mininterval=0.5 if sys.stderr.isatty() else 30,
        )
        with bar:
            batches = watch.waiting(self._batches(start))
            first_samples = [
                (number * rank_count() + rank()) * self.micro_batch
                for number in range(config.training.accumulation_steps)
            ]
            for _ in range(start, self.steps_per_epoch):
                with watch.working():
                    losses, learning_rate, finite = self.step.update(
                        islice(batches, config.training.accumulation_steps),
                        config.run.seed,
                        done.step + 1,
                        first_samples,
                    )
                    # The device has ended the step where its figures are there.
                    losses, learning_rate, finite = (
                        [float(loss.asnumpy()) for loss in losses],
                        float(learning_rate.asnumpy()),
                        bool(finite),
                    )
                done.step += 1
                row = [done.step, *losses, learning_rate]
                self.record.step(
                    {**dict(zip(STEP_COLUMNS, [*row, 0 if finite else 1])), "epoch": done.epochs + 1, **watch.lap()}
                )
                self._count(row, finite)
                self.trace.step()
                bar.update()
                bar.set_postfix_str(
                    f"loss {row[1]:.4f} = seg {row[2]:.4f} + {config.losses.aux_loss_weight:g} aux "
                    f"{row[3]:.4f}, lr {row[4]:.2e}, all ends in "
                    f"{tqdm.format_interval(self._seconds_left())}",
                    refresh=False,
                )
                self.request.check()
                # The last step of an epoch is saved with its validation.
                if (
                    config.training.checkpoint_every
                    and done.step % config.training.checkpoint_every == 0
                    and done.step < end
                ):
                    self.save()
        made = self.steps_per_epoch - done.skipped
        means = {name: total / made for name, total in zip(STEP_COLUMNS, done.sums)}
        times = watch.means()
        if times:
            means["samples_per_second"] = round(1e3 * config.training.batch_size / sum(times.values()), 1)
            means.update({name: round(each, 2) for name, each in times.items()})
        return {
            **means,
            "epoch": done.epochs + 1,
            "step": done.step,
            "samples": done.step * config.training.batch_size,
            "learning_rate": done.learning_rate,
            "skipped": done.skipped,
        }

    def _seconds_left(self) -> float:
        """Until the whole training ends, as far as this start tells; its first validation tells how long others take."""
        steps = self.config.training.epochs * self.steps_per_epoch - self.done.step
        validations = sum(
            _validates(self.config, epoch) for epoch in range(self.done.epochs, self.config.training.epochs)
        )
        return steps * self._watch.seconds_per_step() + validations * self.validation_seconds

    def _count(self, row: list[float], finite: bool) -> None:
        """Takes a step's row of STEP_COLUMNS in. Raises: UserError after ``max_skipped_steps`` in a row."""
        done = self.done
        done.learning_rate = row[-1]
        if finite:
            done.sums = [total + each for total, each in zip(done.sums or [0.0] * len(row), row)]
            done.skipped_in_row = 0
            return
        done.skipped, done.skipped_in_row = done.skipped + 1, done.skipped_in_row + 1
        if done.skipped_in_row == self.config.training.max_skipped_steps:
            other = ", or train in bf16 or fp32" if self.config.run.precision == "fp16" else ""
            raise UserError(
                f"loss or gradients were not finite in {done.skipped_in_row} steps in a row, up to step "
                f"{done.step}: lower learning_rate or set max_grad_norm{other}; {self.record.directory}/"
                "steps.csv says where it began, and checkpoints written before are whole"
            )

    def _batches(self, start: int) -> Iterator[dict]:
        """This rank's micro batches of the epoch, from those of batch number `start` on."""
        if start == self.steps_per_epoch:
            return iter(())
        first, last = start * self.config.training.batch_size, self.steps_per_epoch * self.config.training.batch_size
        order = epoch_order(self.config, self.split, self.done.epochs)[first:last]
        own = order.reshape(-1, rank_count(), self.micro_batch)[:, rank()].reshape(-1)
        batches = self.split.train_batches(own, self.micro_batch, self.config.data.num_workers)
        return batches.create_dict_iterator(num_epochs=1)


def _validates(config: Config, epoch: int) -> bool:
    """Whether epoch number 0, 1, … ends with a validation."""
    return (epoch + 1) % config.evaluation.eval_every == 0 or epoch + 1 == config.training.epochs


def _say(line: str, file: TextIO | None = None) -> None:
    if rank() == 0:
        print(line, file=file, flush=True)


def _summary(config: Config, values: dict[str, float], best: bool) -> str:
    line = f"epoch {values['epoch']}/{config.training.epochs}: loss {values.get('loss', math.nan):.4f}"
    if PARTS[0] in values:
        data, step, host = (values[name] for name in PARTS)
        line += (
            f", {values['samples_per_second']} samples/s ({data:.0f} ms waiting for data, {step:.0f} ms step, "
            f"{host:.0f} ms host)"
        )
    if values["skipped"]:
        line += f", {values['skipped']} steps not finite and skipped"
    if "oIoU" in values:
        line += f", {config.training.val_split} oIoU {values['oIoU']:.4f}, mIoU {values['mIoU']:.4f}"
    return line + (" (best so far)" if best else "")
