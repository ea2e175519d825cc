"""Builds the model and the training step from the configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mindspore import nn

from coupalign.config import Config
from coupalign.kernels import use_kernels, use_kernels_in_update
from coupalign.loss import ObjectLoss, PixelContrastiveLoss
from coupalign.model import CoupAlign
from coupalign.model.positions import anchor_points
from coupalign.training.optimizer import freeze, make_optimizer
from coupalign.training.step import COLUMNS, Objective, TrainStep


def build_step(
    config: Config,
    model: CoupAlign,
    steps_per_epoch: int,
    micro_batch: int,
    extend: Callable[[Objective], nn.Cell] = lambda objective: objective,
    columns: Sequence[str] | None = None,
) -> TrainStep:
    """Builds the step that trains `model`, with frozen parameters, CPU kernels and recomputation as configured.

    Args:
        config: The configuration.
        model: The model to train. Its weights are final, because the step copies them.
        steps_per_epoch: Updates per epoch.
        micro_batch: Samples that this device processes at a time.
        extend: Makes the objective to minimise from Eq 17.
        columns: Columns of a batch, in the order of the objective's inputs; by default those of Eq 17 and, with
            ``object_loss_weight``, objects.

    Raises:
        UserError: See ``freeze`` and ``make_optimizer``.
    """
    settings, losses = config.training, config.losses
    contrast = PixelContrastiveLoss(losses.aux_temperature, losses.aux_normalize, losses.aux_log)
    object_loss = None
    if losses.object_loss_weight:
        anchors = anchor_points(config.model.num_queries)
        object_loss = ObjectLoss(anchors, losses.object_loss_weight, losses.choice_loss_weight)
    existence_weight = losses.existence_loss_weight if config.model.existence else 0.0
    objective = extend(Objective(model, contrast, losses.aux_loss_weight, object_loss, existence_weight))
    freeze(model, settings.frozen)
    use_kernels(model, config.run)
    if settings.recompute:
        model.recompute_blocks()
    untrained = [each.name for each in objective.untrainable_params()]
    step = TrainStep(
        objective,
        make_optimizer(settings, objective.trainable_params(), steps_per_epoch, untrained),
        settings.max_grad_norm,
        micro_batch,
        settings.accumulation_steps,
        config.run.precision == "fp16",
        settings.ema_decay,
        columns or (*COLUMNS, *(["objects"] if object_loss else [])),
        objective.loss_names,
    )
    use_kernels_in_update(step.apply_update, config.run)
    return step
