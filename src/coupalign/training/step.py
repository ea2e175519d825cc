"""One training step: total loss (paper, Eq 17), gradients, update."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from mindspore import Parameter, ParameterTuple, Tensor, mutable, nn, ops
from mindspore.amp import DynamicLossScaler

from coupalign import devices
from coupalign.loss import ExistenceLoss, ObjectLoss, PixelContrastiveLoss, SegmentationLoss
from coupalign.model import CoupAlign
from coupalign.model.dropout import connect_dropout, draw
from coupalign.training.update import STATISTICS, Update, for_each

COLUMNS = ("image", "token_ids", "token_mask", "mask")  # of a batch
LOSSES = ("loss", "segmentation_loss", "auxiliary_loss")  # of Eq 17
ADDED_LOSSES = ("object_loss", "choice_loss", "existence_loss")  # ours; <name>_weight is the key of their factor
INITIAL_LOSS_SCALE = 2.0**10  # the default of max_skipped_steps allows enough halvings to reach 1
LOSS_SCALE_WINDOW = 1000  # finite updates in a row after which the scale doubles


class StepResult(NamedTuple):
    """Result of an update, the same on all ranks; float32 and a bool."""

    losses: Tensor  # means over the batch, in the order of ``TrainStep.loss_names``
    learning_rate: Tensor
    finite: Tensor  # whether loss and gradients were finite and the update was made


class Objective(nn.Cell):
    """``L = L_seg + lambda L_aux`` (paper, Eq 17), and the losses of set prediction and existence, which are ours.

    Args:
        model: The model to train.
        aux_loss: The auxiliary loss.
        aux_loss_weight: lambda. With 0 the auxiliary loss is not computed.
        object_loss: Set prediction, added to L; None as printed.
        existence_loss_weight: Factor of the existence loss, added to L; 0 for a model without this output.

    Inputs: image (B, 3, S, S); token_ids, token_mask (B, T); mask (B, S, S), 0 or 1; with ``object_loss`` also objects
    (B, K, S/4, S/4), 0 or 1. Outputs: L; L_seg; L_aux (0 if not computed); those of ADDED_LOSSES that are computed,
    before their factors; float32 scalars.

    Attributes:
        loss_names: The names of the outputs.
    """

    def __init__(
        self,
        model: CoupAlign,
        aux_loss: PixelContrastiveLoss,
        aux_loss_weight: float,
        object_loss: ObjectLoss | None = None,
        existence_loss_weight: float = 0.0,
    ):
        super().__init__(auto_prefix=False)  # so that checkpoints keep the model's parameter names
        self.model = model
        self.seg_loss = SegmentationLoss()
        self.aux_loss = aux_loss
        self.aux_loss_weight = aux_loss_weight
        self.has_objects = object_loss is not None
        if self.has_objects:
            self.object_loss = object_loss
        self.existence_loss = ExistenceLoss()
        self.existence_loss_weight = existence_loss_weight
        added = (self.has_objects, self.has_objects, existence_loss_weight > 0)
        self.loss_names = LOSSES + tuple(name for name, is_on in zip(ADDED_LOSSES, added) if is_on)

    def construct(
        self, image: Tensor, token_ids: Tensor, token_mask: Tensor, mask: Tensor, objects: Tensor | None = None
    ):
        return self.with_features(image, token_ids, token_mask, mask, objects)[0]

    def with_features(self, image: Tensor, token_ids: Tensor, token_mask: Tensor, mask: Tensor, objects: Tensor | None):
        """The outputs; Y_1 (B, d_s, S/4, S/4). Arguments are the inputs."""
        if self.has_objects:
            outputs = self.model.proposal_outputs(image, token_ids, token_mask)
        else:
            outputs = self.model.training_outputs(image, token_ids, token_mask)
        total, segmentation, auxiliary = self._eq_17(outputs[0], outputs[1], mask)
        added = ()
        if self.has_objects:
            weighted, masks, choice = self.object_loss(outputs[2], outputs[3], objects, mask)  # type: ignore[misc]
            total, added = total + weighted, (masks, choice)  # type: ignore[assignment]
        if self.existence_loss_weight > 0.0:
            existence = self.existence_loss(outputs[-1], mask)
            total, added = total + self.existence_loss_weight * existence, added + (existence,)  # type: ignore[assignment]
        return (total, segmentation, auxiliary) + added, outputs[1]

    def _eq_17(self, logits: Tensor, pixels: Tensor, mask: Tensor):
        """L of Eq 17, L_seg and L_aux from the model's logits (B, S, S) and Y_1 (B, d_s, S/4, S/4)."""
        segmentation = self.seg_loss(logits, mask)
        if self.aux_loss_weight == 0.0:
            return segmentation, segmentation, ops.zeros_like(segmentation)
        auxiliary = self.aux_loss(pixels, mask)
        return segmentation + self.aux_loss_weight * auxiliary, segmentation, auxiliary


class TrainStep(nn.Cell):
    """Computes the losses of a batch over all ranks and updates the parameters if loss and gradients are finite.

    A batch comes in micro batches, one after another on a rank and in parallel on the others. How it is divided only
    changes rounding and batch normalisation, which uses and records the statistics of each micro batch.

    An update is two graphs: losses with gradients, and the update from them. In a single graph the branch that changes
    the weights would keep everything that reads a weight, and so most activations, and recomputation would save nothing.

    Args:
        objective: Its first output is minimised.
        optimizer: Optimizer of the objective's parameters.
        max_grad_norm: Gradients are scaled down to this global norm; 0 leaves them unchanged.
        batch: Samples of a micro batch.
        accumulation_steps: Micro batches per update on this rank.
        scales_loss: Whether to scale the loss before taking gradients. The scale adapts so that float16 gradients neither
            underflow nor overflow.
        ema_decay: Decay of the moving average of the weights; 0 for no average.
        columns: Columns of a batch in the order of the objective's inputs.
        loss_names: The names of the objective's outputs.
    """

    def __init__(
        self,
        objective: nn.Cell,
        optimizer: nn.Cell,
        max_grad_norm: float,
        batch: int,
        accumulation_steps: int = 1,
        scales_loss: bool = False,
        ema_decay: float = 0.0,
        columns: Sequence[str] = COLUMNS,
        loss_names: Sequence[str] = LOSSES,
    ):
        super().__init__(auto_prefix=False)
        self.columns, self.loss_names = tuple(columns), tuple(loss_names)
        scaler = DynamicLossScaler(INITIAL_LOSS_SCALE, 2, LOSS_SCALE_WINDOW) if scales_loss else None
        self.objective = _ScaledObjective(objective, scaler)  # a child, so that set_train reaches it
        self.draws = connect_dropout(objective, batch)
        self.gradients = ops.value_and_grad(self.objective, None, optimizer.parameters, has_aux=True)
        self.apply_update = Update(objective, optimizer, max_grad_norm, scaler, ema_decay)
        self.accumulates = accumulation_steps > 1
        if self.accumulates:
            self.sums = _Sums(optimizer.parameters, len(loss_names), accumulation_steps)
            self.apply_sums = _UpdateFromSums(self.sums, self.apply_update)

    def state(self) -> dict[str, Parameter]:
        """All parameters that the next update depends on, by name: those of the model and of the optimizer."""
        transient = ("sum.", self.draws.name)
        return {name: each for name, each in self.parameters_dict().items() if not name.startswith(transient)}

    def update(
        self, batches: Iterable[Mapping[str, Tensor]], seed: int, number: int, first_samples: Sequence[int]
    ) -> StepResult:
        """Makes update `number` from the micro batches of this rank, as many as accumulation_steps.

        Dropout follows from `seed`, `number` and `first_samples`, the position of each micro batch in the batch.
        """
        for batch, first_sample in zip(batches, first_samples, strict=True):
            self.draws.set_data(draw(seed, number, self.draws, first_sample))
            result = self(*(batch[column] for column in self.columns))
            if self.accumulates:
                result.asnumpy()  # waits, because the running graph may still read the draws
        if self.accumulates:
            return StepResult(*self.apply_sums())
        losses, gradients = result
        # mutable, because otherwise the gradients would be constants and the graph compiled again each time
        return StepResult(*self.apply_update(losses, mutable(gradients)))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block the model has the moving average of its weights, if there is one.

        Parameters are assigned because ``set_data`` does not reach a parameter that only a branch of a compiled graph
        uses. ``average_statistics`` assigns for the same reason.
        """
        pairs = list(zip(self.apply_update.averaged, self.apply_update.averages))
        weights = [each.asnumpy().copy() for each, _ in pairs]
        for each, average in pairs:
            ops.assign(each, Tensor(average.asnumpy()))
        try:
            yield
        finally:
            for (each, _), value in zip(pairs, weights):
                ops.assign(each, Tensor(value))

    def average_statistics(self) -> None:
        """Replaces moving statistics, which differ between ranks if ``batch_norm`` is local, by their means.

        They are linear in what they accumulate, so it does not matter how often this is called, at the same step on all
        ranks.
        """
        if devices.rank_count() > 1:
            for name, each in self.state().items():
                if name.endswith(STATISTICS):
                    ops.assign(each, Tensor(devices.all_reduce_sum(each.asnumpy()) / devices.rank_count()))

    def construct(self, *batch: Tensor):
        (_, losses), gradients = self.gradients(*batch)
        if self.accumulates:
            return self.sums.add(losses, gradients)
        return self.apply_update.over_ranks(losses, gradients)


class _ScaledObjective(nn.Cell):
    """An objective with a loss scale. Outputs: L times the scale; all its outputs unscaled, in a vector."""

    def __init__(self, objective: nn.Cell, scaler: DynamicLossScaler | None):
        super().__init__(auto_prefix=False)
        self.objective, self.scaler = objective, scaler

    def construct(self, *batch: Tensor):
        losses = self.objective(*batch)
        scaled = losses[0] if self.scaler is None else self.scaler.scale(losses[0])
        return scaled, ops.stack(losses)


class _Sums(nn.Cell):
    """Sums of `losses` losses and the gradients of `count` micro batches. `parameters` are the gradients', in order."""

    def __init__(self, parameters: Sequence[Parameter], losses: int, count: int):
        super().__init__(auto_prefix=False)
        self.count = count
        self.losses = Parameter(ops.zeros(losses), name="sum.losses", requires_grad=False)
        self.gradients = ParameterTuple(
            [Parameter(ops.zeros_like(each), name=f"sum.{each.name}", requires_grad=False) for each in parameters]
        )

    def add(self, losses: Tensor, gradients: Sequence[Tensor]) -> Tensor:
        """Adds a micro batch. Returns the sums of the losses so far."""
        for_each(_add, self.gradients, gradients)
        return ops.assign_add(self.losses, losses)


class _UpdateFromSums(nn.Cell):
    """An update from sums, which are reset to 0. Outputs: as Update."""

    def __init__(self, sums: _Sums, apply_update: Update):
        super().__init__(auto_prefix=False)
        self.sums, self.apply_update = sums, apply_update

    def construct(self):
        sums = self.sums
        means = for_each(ops.partial(_divide, sums.count), sums.gradients)
        result = self.apply_update(*self.apply_update.over_ranks(sums.losses / sums.count, means))
        _reset(sums.losses)
        for_each(_reset, sums.gradients)
        return result


def _add(total: Parameter, x: Tensor) -> Tensor:
    return ops.assign_add(total, x)


def _divide(count: int, x: Tensor) -> Tensor:
    return x / count


def _reset(total: Parameter) -> Tensor:
    return ops.assign(total, ops.zeros_like(total))
