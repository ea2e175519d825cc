"""From gradients to updated parameters."""

from __future__ import annotations

from collections.abc import Sequence

from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.amp import DynamicLossScaler

from coupalign.devices import AllFinite, GradientMean, SquaredNorm, rank_count

STATISTICS = ("moving_mean", "moving_variance")

# Applies a function to each of hundreds of gradients or parameters. A loop would become nested calls, of which the
# compiler allows a thousand.
for_each = ops.HyperMap()


def _scale(factor: Tensor, x: Tensor) -> Tensor:
    return x * factor


class Clip(nn.Cell):
    """Scales gradients down to a global norm.

    Args:
        limit: Largest norm; 0 leaves gradients unchanged.

    Inputs: gradients of any shapes. Outputs: their norm before scaling, a float32 scalar; the scaled gradients.
    """

    def __init__(self, limit: float):
        super().__init__(auto_prefix=False)
        self.limit = limit
        self.squared_norm = SquaredNorm()

    def construct(self, gradients: Sequence[Tensor]):
        norm = ops.sqrt(ops.reduce_sum(ops.concat(for_each(self.squared_norm, gradients))))
        if self.limit > 0:
            gradients = for_each(ops.partial(_scale, self.limit / ops.maximum(norm, self.limit)), gradients)
        return norm, gradients


def _move_average(share: Tensor, average: Parameter, x: Tensor) -> Tensor:
    return ops.assign_add(average, (x - average) * share)


class Update(nn.Cell):
    """One update of the parameters if loss and gradients are finite.

    Losses and gradients must be averaged over the ranks, so that all ranks decide alike. An update that is not finite
    changes nothing: no weight, no moment and not the step count of the learning rate. Statistics of norms, which the
    forward pass has already changed, are restored.

    Args:
        objective: Its parameters with names in STATISTICS are the statistics that the forward pass changes.
        optimizer: Optimizer of the objective's parameters.
        max_grad_norm: See ``Clip``.
        loss_scaler: Scale of the gradients, or None. It is halved after an update that was not finite and doubled after
            enough finite ones.
        ema_decay: Decay d of the moving average of weights and statistics, ``a <- d a + (1 - d) w`` after each update.
            After k updates d is at most ``(1 + k) / (10 + k)``, so that the initial weights are soon forgotten. 0 for
            no average.

    Inputs: a vector of losses, whose first is minimised, and the gradients of optimizer.parameters, both from
    ``over_ranks``. Outputs: the losses; the learning rate; whether the update was made, a bool.
    """

    def __init__(
        self,
        objective: nn.Cell,
        optimizer: nn.Cell,
        max_grad_norm: float,
        loss_scaler: DynamicLossScaler | None,
        ema_decay: float,
    ):
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer
        self.loss_scaler = loss_scaler
        if loss_scaler is not None:
            loss_scaler.scale_value.name, loss_scaler.counter.name = "loss_scale", "loss_scale_counter"
            self.loss_scale = ParameterTuple((loss_scaler.scale_value, loss_scaler.counter))  # so that they are saved
        self.clip = Clip(max_grad_norm)
        self.all_finite = AllFinite()
        self.ranks = rank_count()
        if self.ranks > 1:
            self.total = ops.AllReduce()
            self.mean = GradientMean(optimizer.parameters)
        statistics = [each for each in objective.get_parameters() if each.name.endswith(STATISTICS)]
        self.statistics = ParameterTuple(statistics)
        self.last_finite_statistics = ParameterTuple(
            [Parameter(each.value().copy(), name=f"sound.{each.name}", requires_grad=False) for each in statistics]
        )
        self.ema_decay = ema_decay
        self.averaged = ParameterTuple([*optimizer.parameters, *statistics] if ema_decay else [])
        self.averages = ParameterTuple(
            [Parameter(each.value().copy(), name=f"average.{each.name}", requires_grad=False) for each in self.averaged]
        )

    def over_ranks(self, losses: Tensor, gradients: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """Means over the ranks of losses, a vector, and gradients, which are means over the samples of a rank."""
        if self.ranks > 1:
            return self.total(losses) / self.ranks, self.mean(gradients)
        return losses, gradients

    def construct(self, losses: Tensor, gradients: Sequence[Tensor]):
        if self.loss_scaler is not None:
            gradients = self.loss_scaler.unscale(gradients)
        norm, gradients = self.clip(gradients)
        finite = self.all_finite(losses[0] + norm)
        learning_rate = self.optimizer.schedule(self.optimizer.global_step).reshape(())
        losses = ops.depend(losses, learning_rate)
        if finite:
            self.optimizer(gradients)
            for saved, each in zip(self.last_finite_statistics, self.statistics):
                ops.assign(saved, each)
            if self.ema_decay > 0:
                count = self.optimizer.global_step.astype("float32").reshape(())
                share = 1 - ops.minimum((1 + count) / (10 + count), self.ema_decay)
                for_each(ops.partial(_move_average, share), self.averages, self.averaged)
        else:
            for saved, each in zip(self.last_finite_statistics, self.statistics):
                ops.assign(each, saved)
        if self.loss_scaler is not None:
            self.loss_scaler.adjust(finite)
        return losses, learning_rate, finite
