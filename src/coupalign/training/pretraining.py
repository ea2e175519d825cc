"""Pretraining of a small model on labels and descriptions of RefShapes scenes.

It replaces the pretrained encoders that the paper starts from.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from mindspore import Tensor, nn, ops

from coupalign import devices
from coupalign.checkpoints.loading import save_weights, start_from
from coupalign.checks import check_batch_size
from coupalign.config import Config
from coupalign.data.tokenizer import Tokenizer
from coupalign.errors import UserError
from coupalign.files import check_writable
from coupalign.model import build_model
from coupalign.model.layers import conv
from coupalign.training.build import build_step
from coupalign.training.console import progress_bar
from coupalign.training.optimizer import freeze
from coupalign.training.order import first_samples, rank_share
from coupalign.training.pretraining_labels import COLUMNS, VALUES, LabelledScenes, labelled_batches
from coupalign.training.step import Objective
from coupalign.training.trackers import open_tracker

logger = logging.getLogger(__name__)

# Logits of the shapes and the background, which is class 0; then of the other values.
CLASSES = [VALUES["shape"] + 1, *(count for name, count in VALUES.items() if name != "shape")]
LABEL_WEIGHT = 0.1  # the sum of the label losses is about ten times as large as the mask loss
HELD_OUT = 512  # scenes evaluated, after those trained on


class PretrainingObjective(nn.Cell):
    """Eq 17 for the masks of everything that a description fits, plus losses of labels predicted from Y_1.

    With ``object_loss_weight`` set prediction comes on top; proposals choose where the description fits one object.

    The label losses are cross entropies of shape, colour, size and pattern, and of the part in the description (group,
    anchor, rank), as means over object pixels. Shape has the background as a class and is also averaged over all
    pixels. The last one is the mean over object pixels of ``|x - x'| + |y - y'|`` for the object's centre (x, y).

    Args:
        objective: Eq 17 with the model to pretrain.
        dim: d_s, width of Y_1.

    Inputs: image (B, 3, S, S); token_ids, token_mask (B, T); mask (B, S, S); labels (B, 9, S/4, S/4) and objects
        (B, 8, S/4, S/4), as in LabelledScenes.
    Outputs: Eq 17 plus LABEL_WEIGHT times the label losses; L_seg; the label losses; the losses of set prediction;
        float32 scalars.

    Attributes:
        loss_names: The names of the outputs.
    """

    def __init__(self, objective: Objective, dim: int):
        super().__init__(auto_prefix=False)  # so that checkpoints keep the model's parameter names
        self.objective = objective
        self.loss_names = ("loss", "segmentation_loss", "label_loss", *objective.loss_names[3:])
        self.label_head = conv(dim, sum(CLASSES) + 2, 1)
        for parameter in self.label_head.get_parameters():
            parameter.name = f"label_head.{parameter.name}"

    def construct(
        self, image: Tensor, token_ids: Tensor, token_mask: Tensor, mask: Tensor, labels: Tensor, objects: Tensor
    ):
        losses, pixels = self.objective.with_features(image, token_ids, token_mask, mask, objects)
        label_loss = self._label_loss(self.label_head(pixels).astype("float32"), labels)
        return (losses[0] + LABEL_WEIGHT * label_loss, losses[1], label_loss) + losses[3:]

    @staticmethod
    def _label_loss(predicted: Tensor, labels: Tensor) -> Tensor:
        """predicted (B, sum(CLASSES) + 2, S/4, S/4): logits of all classes, then x and y; labels (B, 9, S/4, S/4)."""
        objects = (labels[:, 0] >= 0).astype("float32")
        count = objects.sum() + 1.0
        loss, first = (ops.abs(predicted[:, -2:] - labels[:, -2:]).sum(1) * objects).sum() / count, 0
        for index in range(len(CLASSES)):
            size = CLASSES[index]
            log_probability = ops.log_softmax(predicted[:, first : first + size], 1)
            target = labels[:, index] + 1 if index == 0 else ops.maximum(labels[:, index], 0)
            error = -(log_probability * ops.one_hot(target.astype("int32"), size, 1.0, 0.0, axis=1)).sum(1)
            loss = loss + (error * objects).sum() / count
            if index == 0:
                loss = loss + error.mean()
            first += size
        return loss


class _Predict(nn.Cell):
    """Outputs: logits of the mask (B, S, S); predicted labels (B, sum(CLASSES) + 2, S/4, S/4)."""

    def __init__(self, pretraining: PretrainingObjective):
        super().__init__(auto_prefix=False)
        self.pretraining = pretraining

    def construct(self, image: Tensor, token_ids: Tensor, token_mask: Tensor):
        outputs = self.pretraining.objective.model.training_outputs(image, token_ids, token_mask)
        return outputs[0], self.pretraining.label_head(outputs[1])


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on held-out scenes."""

    masks: float  # oIoU of the masks of the descriptions, at threshold 0.5
    objects: float  # oIoU of objects against background
    values: dict[str, float]  # share of object pixels with the right value, by the names of VALUES

    def line(self) -> str:
        named = ", ".join(f"{name} {share:.4f}" for name, share in self.values.items())
        return f"held out: oIoU of masks {self.masks:.4f}, of objects {self.objects:.4f}; pixels right: {named}"


def pretrain(config: Config, count: int, output: Path, progress: bool = True) -> Accuracy:
    """Trains a model on scenes, each with a description and used once.

    The learning rate follows the whole schedule from ``learning_rate`` to ``end_learning_rate``. An existence output
    keeps its initial weights. Several ranks each draw their own scenes of every batch; rank 0 alone writes.

    Args:
        config: The configuration.
        count: Number of scenes, at least ``batch_size``.
        output: Checkpoint to write, for ``init_checkpoint`` of a training. It is also written every
            ``checkpoint_every`` steps. With ``ema_decay`` it holds the averaged weights. The losses also
            go to the ``tracker``, whose files are in a directory of the same name with its suffix.
        progress: Whether to show a progress bar on stderr.

    Returns: The accuracy on HELD_OUT further scenes.

    Raises:
        UserError: An ``init_checkpoint`` that does not fit, an `output` that cannot be written, or
            ``max_skipped_steps`` steps in a row that were not finite.
    """
    settings, writes = config.training, devices.rank() == 0
    steps = count // settings.batch_size
    micro_batch = check_batch_size(config, devices.rank_count())
    output = check_writable(output)
    model = build_model(config)
    weights = model.parameters_dict()
    if settings.init_checkpoint:
        logger.info(start_from(settings.init_checkpoint, model, settings.init_except))
    if config.model.existence:
        logger.warning("something fits every description, so the existence output is not pretrained")
        freeze(model, ["existence.*"])
        config = replace(config, model=replace(config.model, existence=False))  # so that it has no loss
    steps_per_epoch = max(1, steps // settings.decay_epochs)
    extend = partial(PretrainingObjective, dim=config.model.seg_head_dim)
    step = build_step(config, model, steps_per_epoch, micro_batch, extend, COLUMNS).set_train()
    batches = _batches(config, rank_share(np.arange(steps * settings.batch_size), micro_batch), micro_batch)
    # A step that is not finite is normal only while the loss scale of float16 adapts.
    skipped_in_row, most_skipped = 0, settings.max_skipped_steps if config.run.precision == "fp16" else 1
    tracker_files = output.with_suffix(f".{settings.tracker}")
    tracker = open_tracker(settings.tracker, tracker_files, 1, config.as_dict()) if writes else None
    shown = progress and writes
    with tracker or nullcontext(), progress_bar(steps, 0, "pretraining", shown) as bar:
        for number in range(1, steps + 1):
            given = islice(batches, settings.accumulation_steps)
            parts = ({column: Tensor(value) for column, value in batch.items()} for batch in given)
            losses, _, finite = step.update(parts, config.run.seed, number, first_samples(settings, micro_batch))
            skipped_in_row = 0 if bool(finite) else skipped_in_row + 1
            if skipped_in_row == most_skipped:
                raise UserError(
                    f"loss or gradients were not finite in {skipped_in_row} steps in a row, up to step {number}: "
                    "lower learning_rate"
                )
            figures = dict(zip(step.loss_names, losses.asnumpy().tolist()))
            if tracker:
                tracker.scalars(number, {f"pretraining/{name}": value for name, value in figures.items()})
            bar.update()
            named = {name.removesuffix("_loss"): f"{value:.4f}" for name, value in figures.items()}
            bar.set_postfix(named, refresh=False)
            if number == steps or settings.checkpoint_every and number % settings.checkpoint_every == 0:
                if config.model.batch_norm == "local":
                    step.average_statistics()
                with step.averaged():
                    if writes:
                        save_weights(output, weights)
    with step.averaged():
        return _accuracy(config, step.objective.objective, micro_batch, count)


def _batches(config: Config, numbers: np.ndarray, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    tokenizer = Tokenizer(config.data.vocab_file, config.model.max_tokens)
    scenes = LabelledScenes(numbers, config.run.seed, config.model.image_size, tokenizer)
    return labelled_batches(scenes, batch_size, config.data.num_workers)


def _accuracy(config: Config, objective: PretrainingObjective, batch_size: int, first: int) -> Accuracy:
    """Accuracy on the scenes from number `first` on. Each rank predicts its own part of them."""
    predict = _Predict(objective).set_train(False)
    ranks = devices.rank_count()
    whole = max(1, HELD_OUT // (batch_size * ranks)) * batch_size * ranks
    counts = np.zeros((len(CLASSES) + 2, 2), np.int64)  # right and all, or intersection and union
    numbers = rank_share(first + np.arange(whole), batch_size)
    for batch in _batches(config, numbers, batch_size):
        inputs = (Tensor(batch[column]) for column in ("image", "token_ids", "token_mask"))
        logits, predicted = (each.asnumpy() for each in predict(*inputs))
        mask, labels = batch["mask"] > 0, batch["labels"]
        objects = labels[:, 0] >= 0
        values = np.stack([each.argmax(1) for each in np.split(predicted, np.cumsum(CLASSES), axis=1)[:-1]], 1)
        values[:, 0] -= 1
        for index in range(len(CLASSES)):
            counts[index] += (values[:, index] == labels[:, index])[objects].sum(), objects.sum()
        for index, (ours, theirs) in enumerate(((logits > 0, mask), (values[:, 0] >= 0, objects)), len(CLASSES)):
            counts[index] += (ours & theirs).sum(), (ours | theirs).sum()
    counts = devices.all_reduce_sum(counts)
    *values, masks, objects = (counts[:, 0] / counts[:, 1]).tolist()
    return Accuracy(masks, objects, dict(zip(VALUES, values)))
