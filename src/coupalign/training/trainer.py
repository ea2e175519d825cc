"""The training loop, from a configuration to a directory of checkpoints."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mindspore import dataset as ds

from coupalign import devices
from coupalign.checkpoints.loading import start_from
from coupalign.checkpoints.state import Progress, check_unchanged, find_state, fingerprint, restore
from coupalign.checks import check_batch_size, check_steps
from coupalign.config import Config
from coupalign.data.dataset import Split
from coupalign.data.mixture import training_split
from coupalign.data.prepared import check_objects
from coupalign.devices import rank, rank_count
from coupalign.errors import UserError
from coupalign.evaluation.evaluate import evaluate_split
from coupalign.model import build_model
from coupalign.training.build import build_step
from coupalign.training.console import GENERALISED, epoch_line, losses_line, progress_bar
from coupalign.training.order import check_existence, epoch_order, first_samples, rank_share
from coupalign.training.pictures import Pictures
from coupalign.training.profiler import StepProfiler
from coupalign.training.run_directory import STEP_COLUMNS, VALIDATION_COLUMNS, RunDirectory
from coupalign.training.step_timer import StepTimer
from coupalign.training.stopping import Stopped, StopRequest

logger = logging.getLogger(__name__)


def train(config: Config, progress: bool = True) -> Path:
    """Trains a model and returns the directory of the run; see ``Trainer``."""
    trainer = Trainer(config, progress)
    trainer.setup()
    return trainer.fit()


class Validation(NamedTuple):
    """Metrics by VALIDATION_COLUMNS and GENERALISED, whether the oIoU is the best so far, and pictures."""

    metrics: dict[str, float]
    is_best: bool
    pictures: list[tuple[str, np.ndarray]]


class Trainer:
    """Trains a model, validates it every ``eval_every`` epochs and after the last, and saves all that a resume needs.

    Data order, weights and dropout follow from ``seed``. On the CPU the same configuration gives the same losses to
    the last digit, whether the training is interrupted and resumed or not. Several ranks each train on their part of
    every batch; rank 0 alone writes and logs.

    Call ``setup`` and then ``fit``.

    Args:
        config: The configuration. ``coupalign.devices.set_up(config.run)`` comes first.
        progress: Whether to show a progress bar on stderr.
    """

    def __init__(self, config: Config, progress: bool = True):
        self.config = config
        self._has_bar = progress and rank() == 0
        self._stop_request = StopRequest()
        self._timer = StepTimer()

    def setup(self) -> None:
        """Opens the data, builds model and step, restores the state of a resumed run and opens the run directory.

        Raises:
            UserError: Data, checkpoint or directory do not fit the configuration or cannot be used.
        """
        config, settings = self.config, self.config.training
        self._micro_batch = check_batch_size(config, rank_count())
        for each in config.data_sets():
            check_objects(each, settings.train_split)
        self.split, left_out = training_split(config)
        for line in left_out:
            self._log(line)
        self._val_sets = [(each, Split(each, settings.val_split)) for each in config.data_sets()]
        order = self._order(0)
        self.steps_per_epoch = check_steps(settings, len(order))
        check_existence(config, self.split, order)
        lost = [
            f"{split.name}: {split.truncated:,} expressions truncated, {split.unknown:,} with unknown words"
            for split in (self.split, *(split for _, split in self._val_sets))
            if split.truncated or split.unknown
        ]
        if lost:
            self._log("; ".join(lost))
        state, data = find_state(config), fingerprint(self.split.records["token_ids"])
        if state:
            check_unchanged(state[0], state[2], config, data)
        self.model = build_model(config)
        if settings.init_checkpoint and not state:
            self._log(start_from(settings.init_checkpoint, self.model, settings.init_except))
        self._weights = self.model.parameters_dict()  # before the step adds the random draws of dropout
        self.step = build_step(config, self.model, self.steps_per_epoch, self._micro_batch)
        self._summed = (*STEP_COLUMNS[:-1], *self.step.loss_names[3:])
        self.progress = Progress(config.as_dict(), data)
        if state:
            path, parameters, self.progress = state
            restore(path, self.step.state(), parameters)
            self.progress.config = config.as_dict()
            self._log(f"resuming from {path} at step {self.progress.step}")
        # This also makes every rank look for a checkpoint before the first one writes.
        if devices.all_reduce_max(self.progress.step) != -devices.all_reduce_max(-self.progress.step):
            raise UserError(
                f"the ranks find different checkpoints in {config.run.output_dir}: choose an output_dir on a file "
                "system that all ranks share"
            )
        self.directory = RunDirectory(config, state, writes=rank() == 0)
        if not (self.directory.path / "best.ckpt").exists():  # a run that continues in another directory
            self.progress.best = -1.0
        self._started = time.monotonic() - self.progress.seconds  # as if the run had never stopped

    def fit(self) -> Path:
        """Trains the remaining epochs.

        Returns:
            The directory of the run.

        Raises:
            UserError: A file cannot be written, or ``max_skipped_steps`` steps in a row were not finite. Checkpoints
                written before stay.
            Stopped: After SIGTERM or SIGINT, once the step is finished and the state saved.
        """
        config, settings, progress = self.config, self.config.training, self.progress
        ds.config.set_prefetch_size(config.data.prefetch)
        profiled = settings.profile if self.directory.writes else 0
        profile = StepProfiler(profiled, config.run.device_target, self.directory.path / "profile")
        with self._stop_request, self.directory, closing(profile):
            try:
                while progress.epochs < settings.epochs:
                    figures, epochs = self._train_epoch(profile), progress.epochs + 1
                    is_due = epochs % config.evaluation.eval_every == 0 or epochs == settings.epochs
                    validation = self.validate() if is_due else Validation({}, False, [])
                    figures.update(validation.metrics)
                    progress.epochs, progress.sums, progress.skipped = epochs, [], 0
                    self.directory.log_epoch({**figures, "seconds": round(self._seconds(), 1)}, validation.pictures)
                    self.save()
                    self._log(epoch_line(figures, settings.epochs, settings.val_split, validation.is_best))
                    self._stop_request.check()
            except Stopped:
                self.save()
                name = signal.Signals(self._stop_request.signal).name
                where = f"after step {progress.step}, saved to {self.directory.path}"
                self._log(f"stopped by {name} {where}: continue with --resume auto")
                # msrun kills all ranks as soon as one has ended this way, even a rank that is still writing.
                devices.barrier()
                raise
        return self.directory.path

    def validate(self) -> Validation:
        """Evaluates the model on ``val_split``, with averaged weights if there are any; saves the best to best.ckpt.

        With several data sets, the metrics are means over their ``val_split``, and the pictures are from the first.

        All ranks must call this at the same step.
        """
        evaluation = self.config.evaluation
        pictures = Pictures(self._val_sets[0][1].records, evaluation.threshold)
        has_pictures = self.directory.writes and self.config.training.tracker != "none"
        results = []
        self.model.set_train(False)
        if self.config.model.batch_norm == "local":
            self.step.average_statistics()
        with self.step.averaged():
            for number, (config, split) in enumerate(self._val_sets):
                with self._stop_request.interrupting():
                    result = evaluate_split(
                        self.model,
                        config,
                        split,
                        self.config.training.val_split,
                        limit=evaluation.eval_limit,
                        progress=self._has_bar,
                        on_batch_end=self._stop_request.check,
                        on_sample=pictures if has_pictures and number == 0 else None,
                    )
                results.append({**result.generalised.get("all", {}), **result.metrics})
            names = (*VALIDATION_COLUMNS, *GENERALISED)
            found = {name: [each[name] for each in results if each.get(name) is not None] for name in names}
            metrics = {name: sum(values) / len(values) for name, values in found.items() if values}
            is_best = metrics["oIoU"] > self.progress.best
            if is_best:
                self.progress.best = metrics["oIoU"]
                self.directory.save_best(self._weights)
        if len(results) > 1:
            each_oiou = [f"{name} {100 * each['oIoU']:.2f}" for name, each in zip(self.config.data.names, results)]
            self._log(f"oIoU on {self.config.training.val_split}: {', '.join(each_oiou)}")
        return Validation(metrics, is_best, pictures.drawn)

    def save(self) -> None:
        """Saves the present state to last.ckpt. All ranks must call this at the same step."""
        if self.config.model.batch_norm == "local":
            self.step.average_statistics()
        self.progress.seconds = self._seconds()
        self.directory.save(self.step.state(), self.progress)

    def _train_epoch(self, profile: StepProfiler) -> dict[str, float]:
        """Trains the remaining steps of an epoch and returns its row of curve.csv. Raises Stopped after a step."""
        settings, progress = self.config.training, self.progress
        start = progress.step - progress.epochs * self.steps_per_epoch
        self._timer.start()
        self.step.set_train(True)
        total, name = settings.epochs * self.steps_per_epoch, f"epoch {progress.epochs + 1}/{settings.epochs}"
        with progress_bar(total, progress.step, name, self._has_bar) as bar:
            batches = self._timer.waiting(self._batches(start))
            for index in range(start, self.steps_per_epoch):
                figures = self._train_step(batches)
                self._count(figures)
                profile.step()
                bar.update()
                bar.set_postfix_str(losses_line(figures, self.config.losses), refresh=False)
                self._stop_request.check()
                is_last = index + 1 == self.steps_per_epoch  # which is saved after validation
                if settings.checkpoint_every and progress.step % settings.checkpoint_every == 0 and not is_last:
                    self.save()
        return self._epoch_figures()

    def _train_step(self, batches: Iterator[dict]) -> dict[str, float]:
        settings, progress = self.config.training, self.progress
        with self._timer.working():
            parts, firsts = islice(batches, settings.accumulation_steps), first_samples(settings, self._micro_batch)
            losses, learning_rate, finite = self.step.update(parts, self.config.run.seed, progress.step + 1, firsts)
            # Reading the values waits until the device has finished the step.
            values = losses.asnumpy().tolist(), float(learning_rate.asnumpy()), int(not bool(finite))
        progress.step += 1
        figures = {"step": progress.step, **dict(zip(self.step.loss_names, values[0]))}
        figures |= dict(zip(("learning_rate", "skipped"), values[1:]))
        self.directory.log_step({**figures, "epoch": progress.epochs + 1, **self._timer.lap()})
        return figures

    def _count(self, figures: dict[str, float]) -> None:
        """Adds a step to the sums of its epoch."""
        progress = self.progress
        progress.learning_rate = figures["learning_rate"]
        if not figures["skipped"]:
            sums = progress.sums or [0.0] * len(self._summed)
            progress.sums = [total + figures[name] for total, name in zip(sums, self._summed)]
            progress.skipped_in_row = 0
            return
        progress.skipped, progress.skipped_in_row = progress.skipped + 1, progress.skipped_in_row + 1
        if progress.skipped_in_row == self.config.training.max_skipped_steps:
            other = ", or train in bf16 or fp32" if self.config.run.precision == "fp16" else ""
            raise UserError(
                f"loss or gradients were not finite in {progress.skipped_in_row} steps in a row, up to step "
                f"{progress.step}: lower learning_rate or set max_grad_norm{other}; {self.directory.path}/steps.csv "
                "shows where it began, and checkpoints written before are intact"
            )

    def _epoch_figures(self) -> dict[str, float]:
        batch_size, progress = self.config.training.batch_size, self.progress
        steps = self.steps_per_epoch - progress.skipped
        figures = {name: total / steps for name, total in zip(self._summed, progress.sums)}
        times = self._timer.epoch_means()
        if times:
            figures["samples_per_second"] = round(1e3 * batch_size / sum(times.values()), 1)
            figures.update({name: round(each, 2) for name, each in times.items()})
        return {
            **figures,
            "epoch": progress.epochs + 1,
            "step": progress.step,
            "samples": progress.step * batch_size,
            "learning_rate": progress.learning_rate,
            "skipped": progress.skipped,
        }

    def _batches(self, start: int) -> Iterator[dict]:
        """This rank's micro batches of the epoch from batch `start` on."""
        if start == self.steps_per_epoch:
            return iter(())
        batch_size = self.config.training.batch_size
        order = self._order(self.progress.epochs)
        rows = rank_share(order[start * batch_size : self.steps_per_epoch * batch_size], self._micro_batch)
        objects = self.config.losses.max_objects if self.config.losses.object_loss_weight else 0
        batches = self.split.train_batches(rows, self._micro_batch, self.config.data.num_workers, objects)
        return batches.create_dict_iterator(num_epochs=1)

    def _order(self, epoch: int) -> np.ndarray:
        config = self.config
        return epoch_order(config.training, config.run.seed, self.split, epoch, config.data.data_weights)

    def _seconds(self) -> float:
        return time.monotonic() - self._started

    @staticmethod
    def _log(line: str) -> None:
        if rank() == 0:
            logger.info(line)
