"""One step of training: losses, gradients, update."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from mindspore import Parameter, ParameterTuple, Tensor, mutable, nn, ops
from mindspore.amp import DynamicLossScaler

from coupalign.loss import PixelContrastiveLoss, SegmentationLoss
from coupalign.model import CoupAlign
from coupalign.model.dropout import connect_dropout, draw
from coupalign.training.update import Update, on_each

COLUMNS = ("image", "token_ids", "token_mask", "mask")  # of a batch
LOSS_SCALE = 2.0**10  # at first; as many halvings as max_skipped_steps allows by default lead to 1
DOUBLED_AFTER = 1000  # updates in a row that were finite


class Objective(nn.Cell):
    """``L = L_seg + lambda L_aux`` (paper, Eq 17).

    Args:
        model: the model to train.
        contrast: the auxiliary loss.
        weight: lambda; at 0 the auxiliary loss is not computed.

    Inputs: image (B, 3, S, S); token_ids, token_mask (B, T); mask (B, S, S), 0 or 1.
    Outputs: L; L_seg; L_aux (0 where it is not computed); float32 scalars.
    """

    def __init__(self, model: CoupAlign, contrast: PixelContrastiveLoss, weight: float):
        super().__init__(auto_prefix=False)  # checkpoints keep the names of the model alone
        self.model = model
        self.segmentation = SegmentationLoss()
        self.contrast = contrast
        self.weight = weight

    def construct(self, image: Tensor, token_ids: Tensor, token_mask: Tensor, mask: Tensor):
        logits, pixels = self.model.training_outputs(image, token_ids, token_mask)
        return self.losses(logits, pixels, mask)

    def losses(self, logits: Tensor, pixels: Tensor, mask: Tensor):
        """The outputs from what the model gave: logits (B, S, S); Y_1 (B, d_s, S/4, S/4)."""
        segmentation = self.segmentation(logits, mask)
        if self.weight == 0.0:
            return segmentation, segmentation, ops.zeros_like(segmentation)
        auxiliary = self.contrast(pixels, mask)
        return segmentation + self.weight * auxiliary, segmentation, auxiliary


class TrainStep(nn.Cell):
    """Losses of the global batch, and one update of the parameters, unless loss or gradients are not finite.

    The batch comes in micro batches: one after another here, at the same time on other ranks. What is learnt is the
    same however it is cut, but for rounding and batch normalisation, which sees, and takes its statistics from, each
    micro batch.

    An update is two graphs: losses and gradients, and what is made of them. In one, whatever reads a weight would be
    kept up to the branch that changes it, most activations among them, and recomputation would save nothing.

    Args:
        objective: what to minimise; its first output.
        optimizer: of the objective's parameters.
        max_grad_norm: gradients are scaled down to this global norm; 0 leaves them.
        batch: samples of a micro batch.
        accumulation_steps: micro batches of an update on this rank.
        scales_loss: whether gradients are taken of the loss times a scale, which adapts itself, so that in float16 the
            small ones are not lost and the large ones not infinite.
        ema_decay: of the moving average of the weights; 0 is none.
        columns: of a batch, in the order of the objective's inputs.
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
    ):
        super().__init__(auto_prefix=False)
        self.columns = tuple(columns)
        scaler = DynamicLossScaler(LOSS_SCALE, 2, DOUBLED_AFTER) if scales_loss else None
        self.objective = _Scaled(objective, scaler)  # a child, so that set_train reaches it
        self.draws = connect_dropout(objective, batch)
        self.gradients = ops.value_and_grad(self.objective, None, optimizer.parameters, has_aux=True)
        self.conclude = Update(objective, optimizer, max_grad_norm, scaler, ema_decay)
        self.accumulates = accumulation_steps > 1
        if self.accumulates:
            self.sums = Sums(optimizer.parameters, accumulation_steps)
            self.conclude_sums = _ConcludeSums(self.sums, self.conclude)

    def state(self) -> dict[str, Parameter]:
        """All parameters that the next update depends on: those of model and optimiser by name."""
        passing = {id(self.draws)} | {id(each) for each in (self.sums.get_parameters() if self.accumulates else ())}
        return {name: each for name, each in self.parameters_dict().items() if id(each) not in passing}

    def update(
        self, batches: Iterable[Mapping[str, Tensor]], seed: int, number: int, first_samples: Sequence[int]
    ) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """One update from the micro batches of this rank.

        Args:
            batches: as many as accumulation_steps, each with the `columns`, as the objective takes them.
            seed, number: of the training and of the update, from which dropout follows.
            first_samples: for each micro batch the place of its first sample in the global batch.

        Returns: L, L_seg and L_aux, means over the global batch; the learning rate of this update; whether it was made,
            a bool. All the same on all ranks.
        """
        for batch, first_sample in zip(batches, first_samples, strict=True):
            self.draws.set_data(draw(seed, number, self.draws, first_sample))
            result = self(*(batch[column] for column in self.columns))
            if self.accumulates:
                result.asnumpy()  # waits, since a graph that runs may still read the draws
        if self.accumulates:
            return self.conclude_sums()
        losses, gradients = result
        return self.conclude(losses, mutable(gradients))  # else they would be constants of a graph each time

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block the model has the moving average of its weights, where there is one.

        Assigned, since what set_data puts into a parameter does not get to where a compiled graph uses it in a branch.
        """
        pairs = list(zip(self.conclude.averaged, self.conclude.averages))
        own = [each.asnumpy().copy() for each, _ in pairs]
        for each, average in pairs:
            ops.assign(each, Tensor(average.asnumpy()))
        try:
            yield
        finally:
            for (each, _), value in zip(pairs, own):
                ops.assign(each, Tensor(value))

    def construct(self, *batch: Tensor):
        (_, losses), gradients = self.gradients(*batch)
        if self.accumulates:
            return self.sums.add(losses, gradients)
        return self.conclude.over_ranks(losses, gradients)


class _Scaled(nn.Cell):
    """An objective whose gradients come scaled. Outputs: L times the scale; L, L_seg and L_aux as they are, (3,)."""

    def __init__(self, objective: nn.Cell, scaler: DynamicLossScaler | None):
        super().__init__(auto_prefix=False)
        self.objective = objective
        self.scaler = scaler

    def construct(self, *batch: Tensor):
        losses = self.objective(*batch)
        scaled = losses[0] if self.scaler is None else self.scaler.scale(losses[0])
        return scaled, ops.stack(losses)


class Sums(nn.Cell):
    """Losses and gradients of micro batches, added up.

    Args:
        parameters: whose gradients will come.
        count: micro batches until the sums are asked for.
    """

    def __init__(self, parameters: Sequence[Parameter], count: int):
        super().__init__(auto_prefix=False)
        self.count = count
        self.losses = Parameter(ops.zeros(3), name="sum.losses", requires_grad=False)
        self.gradients = ParameterTuple(
            [Parameter(ops.zeros_like(each), name=f"sum.{each.name}", requires_grad=False) for each in parameters]
        )

    def add(self, losses: Tensor, gradients: Sequence[Tensor]) -> Tensor:
        """Adds those of a micro batch. Returns: the sum of the losses so far, (3,)."""
        on_each(_add, self.gradients, gradients)
        return ops.assign_add(self.losses, losses)


class _ConcludeSums(nn.Cell):
    """An update from sums, which are then 0. Outputs: as TrainStep.update."""

    def __init__(self, sums: Sums, conclude: Update):
        super().__init__(auto_prefix=False)
        self.sums = sums
        self.conclude = conclude

    def construct(self):
        sums = self.sums
        means = on_each(ops.partial(_divided, sums.count), sums.gradients)
        result = self.conclude(*self.conclude.over_ranks(sums.losses / sums.count, means))
        _clear(sums.losses)
        on_each(_clear, sums.gradients)
        return result


def _add(total: Parameter, x: Tensor) -> Tensor:
    return ops.assign_add(total, x)


def _divided(count: int, x: Tensor) -> Tensor:
    return x / count


def _clear(total: Parameter) -> Tensor:
    return ops.assign(total, ops.zeros_like(total))
