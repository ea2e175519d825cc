"""Pretraining of a small model's image side on RefShapes' labels, in place of the ImageNet the paper starts from."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops
from tqdm import tqdm

from src.config import Config
from src.data.refshapes.labels import labelled_batches
from src.data.refshapes.scene import FACTORS
from src.data.tokenizer import Tokenizer
from src.errors import UserError
from src.files import atomic_path
from src.kernels import use_kernels, use_kernels_in_update
from src.model import CoupAlign, build_model
from src.model.layers import conv
from src.training.optimizer import freeze, make_optimizer
from src.training.step import TrainStep

# Logits of the shapes and of the background, which is class 0; then of the other factors.
CLASSES = [len(FACTORS["shape"]) + 1, *(len(values) for factor, values in FACTORS.items() if factor != "shape")]
_HELD_OUT = 512  # scenes after those trained on


class LabelObjective(nn.Cell):
    """Cross entropies of what is seen at each pixel of Y_1, and the distance to its centre.

    Cross entropies are means over the pixels of things; that of shape, which has the background as a class, also over
    all pixels. The distance is the mean over things' pixels of ``|x - x'| + |y - y'|``.

    Args:
        model: whose ``training_outputs`` give Y_1.
        dim: d_s, width of Y_1.

    Inputs: image (B, 3, S, S); token_ids, token_mask (B, T); labels (B, 6, S/4, S/4) as of LabelledScenes.
    Outputs: the sum; the cross entropies; the distance; float32 scalars.
    """

    def __init__(self, model: CoupAlign, dim: int):
        super().__init__(auto_prefix=False)  # checkpoints keep the names of the model alone
        self.model = model
        self.label_head = conv(dim, sum(CLASSES) + 2, 1)
        for parameter in self.label_head.get_parameters():
            parameter.name = f"label_head.{parameter.name}"

    def predict(self, image: Tensor, token_ids: Tensor, token_mask: Tensor) -> Tensor:
        """Logits of all classes, then x and y: (B, sum(CLASSES) + 2, S/4, S/4) float32."""
        return self.label_head(self.model.training_outputs(image, token_ids, token_mask)[1]).astype("float32")

    def construct(self, image: Tensor, token_ids: Tensor, token_mask: Tensor, labels: Tensor):
        found = self.predict(image, token_ids, token_mask)
        things = (labels[:, 0] >= 0).astype("float32")
        count = things.sum() + 1.0
        classes, first = 0.0, 0
        for factor in range(4):
            size = CLASSES[factor]
            likelihood = ops.log_softmax(found[:, first:first + size], 1)
            target = labels[:, factor] + 1 if factor == 0 else ops.maximum(labels[:, factor], 0)
            error = -(likelihood * ops.one_hot(target.astype("int32"), size, axis=1)).sum(1)
            classes = classes + (error * things).sum() / count
            if factor == 0:
                classes = classes + error.mean()
            first += size
        distance = (ops.abs(found[:, first:] - labels[:, 4:]).sum(1) * things).sum() / count
        return classes + distance, classes, distance


class _Predict(nn.Cell):
    """`LabelObjective.predict` as a graph of its own."""

    def __init__(self, objective: LabelObjective):
        super().__init__(auto_prefix=False)
        self.objective = objective

    def construct(self, image: Tensor, token_ids: Tensor, token_mask: Tensor) -> Tensor:
        return self.objective.predict(image, token_ids, token_mask)


@dataclass(frozen=True)
class Accuracy:
    """Of scenes not trained on: shares of things' pixels whose factor is found, by factor; oIoU of things against
    background; mean distance of found centres, as in LabelObjective."""

    factors: dict[str, float]
    things: float
    distance: float

    def table(self) -> str:
        """One line."""
        named = ", ".join(f"{factor} {value:.4f}" for factor, value in self.factors.items())
        return f"held out: {named}, things' oIoU {self.things:.4f}, centres off by {self.distance:.4f}"


def pretrain(config: Config, count: int, output: Path, progress: bool = True) -> Accuracy:
    """Trains a model, but for what makes masks of Y_1, to label RefShapes' pixels, each scene seen once.

    The expression is always the same and says nothing. The learning rate goes its whole way, ``learning_rate`` to
    ``end_learning_rate``, over all scenes.

    Args:
        count: scenes.
        output: the checkpoint written, from which training starts with ``init_checkpoint``.

    Raises: UserError for fewer scenes than a batch holds, an `output` that cannot be written, or a loss not finite.
    """
    steps = count // config.batch_size
    if steps == 0:
        raise UserError(f"{count} scenes are fewer than batch_size {config.batch_size}: raise --scenes")
    model = build_model(config)
    weights = model.parameters_dict()
    freeze(model, ["mask_generator.*", "sma.*"] if config.sma else ["mask_proj.*"])
    use_kernels(model, config)
    objective = LabelObjective(model, config.seg_head_dim)
    optimizer = make_optimizer(config, objective.trainable_params(), max(1, steps // config.decay_epochs))
    step = TrainStep(objective, optimizer, config.max_grad_norm, config.batch_size,
                     scales_loss=config.precision == "fp16")
    use_kernels_in_update(step.conclude, config)
    step.set_train()
    words = [Tensor(np.tile(each, (config.batch_size, 1)))
             for each in Tokenizer(config.vocab_file, config.max_tokens).encode("the")]
    scenes = labelled_batches(range(count), config.seed, config.image_size, config.batch_size)
    with atomic_path(output) as path, tqdm(total=steps, unit="step", disable=not progress, mininterval=5) as bar:
        for number, (image, labels) in enumerate(scenes.create_tuple_iterator(num_epochs=1), 1):
            batch = {"image": image, "token_ids": words[0], "token_mask": words[1], "mask": labels}
            losses, _, finite = step.update([batch], config.seed, number, [0])
            if not bool(finite) and config.precision != "fp16":
                raise UserError(f"loss or gradients were not finite in step {number}: lower learning_rate")
            bar.update()
            bar.set_postfix_str(f"loss {float(losses[0]):.4f}", refresh=False)
        mindspore.save_checkpoint([{"name": name, "data": each} for name, each in weights.items()], str(path))
    return _accuracy(config, objective, words, count)


def _accuracy(config: Config, objective: LabelObjective, words: list[Tensor], first: int) -> Accuracy:
    predict = _Predict(objective).set_train(False)
    right, things, distance, overlap, union = np.zeros(4), 0, 0.0, 0, 0
    data = labelled_batches(range(first, first + _HELD_OUT), config.seed, config.image_size, config.batch_size)
    for image, labels in data.create_tuple_iterator(num_epochs=1):
        found, labels = predict(image, *words).asnumpy(), labels.asnumpy()
        here = labels[:, 0] >= 0
        *classes, centres = np.split(found, np.cumsum(CLASSES), axis=1)
        kinds = np.stack([each.argmax(1) for each in classes], 1)
        kinds[:, 0] -= 1
        right += [(kinds[:, factor] == labels[:, factor])[here].sum() for factor in range(4)]
        things += here.sum()
        distance += np.abs(centres - labels[:, 4:]).sum(1)[here].sum()
        overlap += (here & (kinds[:, 0] >= 0)).sum()
        union += (here | (kinds[:, 0] >= 0)).sum()
    return Accuracy(dict(zip(FACTORS, right / things)), overlap / union, distance / things)
