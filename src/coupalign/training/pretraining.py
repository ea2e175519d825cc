"""Pretraining of a small model on RefShapes' labels and descriptions, in place of what the paper starts from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mindspore import Tensor, nn, ops
from tqdm import tqdm

from coupalign.checkpoints.loading import start_from
from coupalign.checkpoints.state import save_weights
from coupalign.config import Config
from coupalign.data.tokenizer import Tokenizer
from coupalign.errors import UserError
from coupalign.files import check_writable
from coupalign.kernels import use_kernels, use_kernels_in_update
from coupalign.loss import PixelContrastiveLoss
from coupalign.model import build_model
from coupalign.model.layers import conv
from coupalign.training.optimizer import make_optimizer
from coupalign.training.pretraining_labels import COLUMNS, VALUES, labelled_batches
from coupalign.training.step import Objective, TrainStep

# Logits of the shapes and of the background, which is class 0; then of the other values.
CLASSES = [VALUES["shape"] + 1, *(count for name, count in VALUES.items() if name != "shape")]
LABEL_WEIGHT = 0.1  # of the labels' losses, which together are some ten times as large as the mask's
_HELD_OUT = 512  # scenes after those trained on


class PretrainingObjective(nn.Cell):
    """Eq 17 for masks of all that a description fits, and losses of what Y_1 tells of each pixel.

    Those are cross entropies of shape, colour, size, pattern, and of being of the description's group, its anchor and of
    which rank, means over the pixels of things, that of shape, which has the background as a class, also over all pixels;
    and the mean over things' pixels of ``|x - x'| + |y - y'|``, (x, y) being the centre of the thing.

    Args:
        objective: Eq 17, with the model to pretrain.
        dim: d_s, width of Y_1.

    Inputs: image (B, 3, S, S); token_ids, token_mask (B, T); mask (B, S, S); labels (B, 9, S/4, S/4), as of
        LabelledScenes.
    Outputs: Eq 17 and the labels' losses times LABEL_WEIGHT; L_seg; the labels' losses; float32 scalars.
    """

    def __init__(self, objective: Objective, dim: int):
        super().__init__(auto_prefix=False)  # checkpoints keep the names of the model alone
        self.objective = objective
        self.label_head = conv(dim, sum(CLASSES) + 2, 1)
        for parameter in self.label_head.get_parameters():
            parameter.name = f"label_head.{parameter.name}"

    def construct(self, image: Tensor, token_ids: Tensor, token_mask: Tensor, mask: Tensor, labels: Tensor):
        logits, pixels = self.objective.model.training_outputs(image, token_ids, token_mask)
        total, segmentation, _ = self.objective.losses(logits, pixels, mask)
        seen = self._label_loss(self.label_head(pixels).astype("float32"), labels)
        return total + LABEL_WEIGHT * seen, segmentation, seen

    @staticmethod
    def _label_loss(found: Tensor, labels: Tensor) -> Tensor:
        """found (B, sum(CLASSES) + 2, S/4, S/4), logits of all classes, then x and y; labels (B, 9, S/4, S/4)."""
        things = (labels[:, 0] >= 0).astype("float32")
        count = things.sum() + 1.0
        loss, first = (ops.abs(found[:, -2:] - labels[:, -2:]).sum(1) * things).sum() / count, 0
        for index in range(len(CLASSES)):
            size = CLASSES[index]
            likelihood = ops.log_softmax(found[:, first : first + size], 1)
            target = labels[:, index] + 1 if index == 0 else ops.maximum(labels[:, index], 0)
            error = -(likelihood * ops.one_hot(target.astype("int32"), size, axis=1)).sum(1)
            loss = loss + (error * things).sum() / count
            if index == 0:
                loss = loss + error.mean()
            first += size
        return loss


class _Predict(nn.Cell):
    """Logits of the mask (B, S, S), and what the label head finds (B, sum(CLASSES) + 2, S/4, S/4)."""

    def __init__(self, pretraining: PretrainingObjective):
        super().__init__(auto_prefix=False)
        self.pretraining = pretraining

    def construct(self, image: Tensor, token_ids: Tensor, token_mask: Tensor):
        logits, pixels = self.pretraining.objective.model.training_outputs(image, token_ids, token_mask)
        return logits, self.pretraining.label_head(pixels)


@dataclass(frozen=True)
class Accuracy:
    """Of scenes not trained on: oIoU of the descriptions' masks, at threshold .5; of things against background; and
    the shares of things' pixels whose value is found, by the names of VALUES."""

    masks: float
    things: float
    values: dict[str, float]

    def line(self) -> str:
        """One line for people."""
        named = ", ".join(f"{name} {share:.4f}" for name, share in self.values.items())
        return f"held out: oIoU of masks {self.masks:.4f}, of things {self.things:.4f}; pixels right: {named}"


def pretrain(config: Config, count: int, output: Path, progress: bool = True) -> Accuracy:
    """Trains a model on scenes, each seen once, with a description each.

    The learning rate goes its whole way, ``learning_rate`` to ``end_learning_rate``, over all of them.

    Args:
        count: scenes.
        output: the checkpoint written, from which training starts with ``init_checkpoint``; what is learnt so far is
            written there every ``checkpoint_every`` steps too.
        progress: show a bar on stderr.

    Raises: UserError for fewer scenes than a batch holds, an ``init_checkpoint`` that does not fit, an `output`
        that cannot be written, or a loss not finite.
    """
    steps = count // config.training.batch_size
    if steps == 0:
        raise UserError(f"{count} scenes are fewer than batch_size {config.training.batch_size}: raise --scenes")
    output = check_writable(output)
    model = build_model(config)
    weights = model.parameters_dict()
    if config.training.init_checkpoint:
        start_from(config.training.init_checkpoint, model)
    use_kernels(model, config)
    contrast = PixelContrastiveLoss(config.losses.aux_temperature, config.losses.aux_normalize, config.losses.aux_log)
    objective = PretrainingObjective(
        Objective(model, contrast, config.losses.aux_loss_weight), config.model.seg_head_dim
    )
    optimizer = make_optimizer(config, objective.trainable_params(), max(1, steps // config.training.decay_epochs))
    step = TrainStep(
        objective,
        optimizer,
        config.training.max_grad_norm,
        config.training.batch_size,
        scales_loss=config.run.precision == "fp16",
        columns=COLUMNS,
    )
    use_kernels_in_update(step.conclude, config)
    step.set_train()
    scenes = _batches(config, range(count))
    with tqdm(total=steps, unit="step", disable=not progress, mininterval=5) as bar:
        for number, batch in enumerate(scenes, 1):
            batch = {column: Tensor(value) for column, value in batch.items()}
            losses, _, finite = step.update([batch], config.run.seed, number, [0])
            if not bool(finite) and config.run.precision != "fp16":
                raise UserError(f"loss or gradients were not finite in step {number}: lower learning_rate")
            bar.update()
            bar.set_postfix_str(f"mask {float(losses[1]):.4f}, labels {float(losses[2]):.4f}", refresh=False)
            if number == steps or config.training.checkpoint_every and number % config.training.checkpoint_every == 0:
                save_weights(output, weights)
    return _accuracy(config, objective, range(count, count + _HELD_OUT))


def _batches(config: Config, numbers: range) -> Iterator[dict[str, np.ndarray]]:
    tokenizer = Tokenizer(config.data.vocab_file, config.model.max_tokens)
    return labelled_batches(
        numbers,
        config.run.seed,
        config.model.image_size,
        tokenizer,
        config.training.batch_size,
        config.data.num_workers,
    )


def _accuracy(config: Config, objective: PretrainingObjective, numbers: range) -> Accuracy:
    predict = _Predict(objective).set_train(False)
    right, pixels = np.zeros(len(CLASSES)), 0
    overlaps, unions = np.zeros(2), np.zeros(2)
    for batch in _batches(config, numbers):
        inputs = (Tensor(batch[column]) for column in ("image", "token_ids", "token_mask"))
        logits, found = (each.asnumpy() for each in predict(*inputs))
        mask, labels = batch["mask"] > 0, batch["labels"]
        here = labels[:, 0] >= 0
        kinds = np.stack([each.argmax(1) for each in np.split(found, np.cumsum(CLASSES), axis=1)[:-1]], 1)
        kinds[:, 0] -= 1
        right += [(kinds[:, index] == labels[:, index])[here].sum() for index in range(len(CLASSES))]
        pixels += here.sum()
        for i, (ours, theirs) in enumerate(((logits > 0, mask), (kinds[:, 0] >= 0, here))):
            overlaps[i] += (ours & theirs).sum()
            unions[i] += (ours | theirs).sum()
    return Accuracy(*(overlaps / unions), dict(zip(VALUES, right / pixels)))
