"""From gradients to parameters."""

from __future__ import annotations

from collections.abc import Sequence

from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.amp import DynamicLossScaler

from coupalign.devices import GradientMean, rank_count

STATISTICS = ("moving_mean", "moving_variance")

# A function of each of hundreds of gradients or parameters. A loop over them would be as many calls, one inside another,
# which the compiler allows a thousand of.
on_each = ops.HyperMap()


def _square(x: Tensor) -> Tensor:
    # a sum over all elements is one scalar after another on the CPU; a product is not
    return ops.matmul(x.reshape(1, -1), x.reshape(-1, 1)).reshape(())


def _scaled(scale: Tensor, x: Tensor) -> Tensor:
    return x * scale


class Clip(nn.Cell):
    """Scales gradients down to a global norm.

    Args:
        limit: the largest norm; 0 leaves gradients as they are.

    Inputs: gradients of any shapes. Outputs: their norm, a float32 scalar; the gradients, scaled.
    """

    def __init__(self, limit: float):
        super().__init__(auto_prefix=False)
        self.limit = limit

    def construct(self, gradients: Sequence[Tensor]):
        norm = ops.sqrt(ops.addn(on_each(_square, gradients)))
        if self.limit > 0:
            gradients = on_each(ops.partial(_scaled, self.limit / ops.maximum(norm, self.limit)), gradients)
        return norm, gradients


def _follow(share: Tensor, average: Parameter, x: Tensor) -> Tensor:
    return ops.assign_add(average, (x - average) * share)


class Update(nn.Cell):
    """One update of the parameters, unless loss or gradients are not finite.

    Losses and gradients have to be averaged over the ranks, so that all ranks do the same. An update that is not finite
    changes nothing: no weight, no moment, not the number of updates that the learning rate follows, nor the statistics
    of norms, which the forward pass has already spoilt and which are put back.

    Args:
        objective: whose parameters with names in STATISTICS its forward pass changes.
        optimizer: of the objective's parameters.
        max_grad_norm: gradients are scaled down to this global norm; 0 leaves them.
        loss_scaler: what the gradients come scaled with; halved after an update that was not finite, and doubled
            after as many as it counts that were.
        ema_decay: d of the moving average of weights and statistics, a <- d a + (1 - d) w after each update; at first
            less, (1 + k) / (10 + k) after k updates, so that it soon forgets where training began. 0 keeps none.

    Inputs: L, L_seg, L_aux (3,) and the gradients of optimizer.parameters, both from ``over_ranks``.
    Outputs: L, L_seg and L_aux; the learning rate; whether the update was made, a bool.
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
        self.ranks = rank_count()
        if self.ranks > 1:
            self.total = ops.AllReduce()
            self.mean = GradientMean(optimizer.parameters)
        statistics = [each for each in objective.get_parameters() if each.name.endswith(STATISTICS)]
        self.statistics = ParameterTuple(statistics)
        self.sound_statistics = ParameterTuple(
            [Parameter(each.value().copy(), name=f"sound.{each.name}", requires_grad=False) for each in statistics]
        )
        self.ema_decay = ema_decay
        self.averaged = ParameterTuple([*optimizer.parameters, *statistics] if ema_decay else [])
        self.averages = ParameterTuple(
            [Parameter(each.value().copy(), name=f"average.{each.name}", requires_grad=False) for each in self.averaged]
        )

    def over_ranks(self, losses: Tensor, gradients: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """Means over the ranks of losses (3,) and gradients, which are means over what a rank has seen."""
        if self.ranks > 1:
            return self.total(losses) / self.ranks, self.mean(gradients)
        return losses, gradients

    def construct(self, losses: Tensor, gradients: Sequence[Tensor]):
        if self.loss_scaler is not None:
            gradients = self.loss_scaler.unscale(gradients)
        norm, gradients = self.clip(gradients)
        finite = ops.isfinite(losses[0] + norm)
        learning_rate = self.optimizer.schedule(self.optimizer.global_step).reshape(())
        losses = ops.depend(losses, learning_rate)
        if finite:
            self.optimizer(gradients)
            for sound, each in zip(self.sound_statistics, self.statistics):
                ops.assign(sound, each)
            if self.ema_decay > 0:
                count = self.optimizer.global_step.astype("float32").reshape(())
                share = 1 - ops.minimum((1 + count) / (10 + count), self.ema_decay)
                on_each(ops.partial(_follow, share), self.averages, self.averaged)
        else:
            for sound, each in zip(self.sound_statistics, self.statistics):
                ops.assign(each, sound)
        if self.loss_scaler is not None:
            self.loss_scaler.adjust(finite)
        return (losses[0], losses[1], losses[2]), learning_rate, finite
