"""From gradients to parameters."""
from __future__ import annotations

from collections.abc import Sequence

from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from src.devices import rank_count

STATISTICS = ("moving_mean", "moving_variance")


class Update(nn.Cell):
    """One update of the parameters, unless loss or gradients are not finite.

    Losses and gradients are first averaged over the ranks, so that all ranks do the same. An update that is not finite
    changes nothing: no weight, no moment, not the number of updates that the learning rate follows, nor the statistics
    of norms, which the forward pass has already spoilt and which are put back.

    Args:
        objective: whose parameters with names in STATISTICS its forward pass changes.
        optimizer: of the objective's parameters.
        max_grad_norm: gradients are scaled down to this global norm; 0 leaves them.

    Inputs: L, L_seg, L_aux (3,) and the gradients of optimizer.parameters, means over what this rank has seen.
    Outputs: L, L_seg and L_aux over all ranks; the learning rate; whether the update was made, a bool.
    """

    def __init__(self, objective: nn.Cell, optimizer: nn.Cell, max_grad_norm: float):
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer
        self.max_grad_norm = max_grad_norm
        self.ranks = rank_count()
        if self.ranks > 1:
            self.add_up = ops.AllReduce()
            self.average = nn.DistributedGradReducer(optimizer.parameters, mean=True)
        statistics = [each for each in objective.get_parameters() if each.name.endswith(STATISTICS)]
        self.statistics = ParameterTuple(statistics)
        self.sound_statistics = ParameterTuple(
            [Parameter(each.value().copy(), name=f"sound.{each.name}", requires_grad=False) for each in statistics])

    def construct(self, losses: Tensor, gradients: Sequence[Tensor]):
        if self.ranks > 1:
            losses = self.add_up(losses) / self.ranks
            gradients = self.average(gradients)
        square = ops.zeros_like(losses[0])
        for each in gradients:
            square = square + ops.square(each).sum()
        norm = ops.sqrt(square)
        finite = ops.isfinite(losses[0] + norm)
        if self.max_grad_norm > 0:
            scale = self.max_grad_norm / ops.maximum(norm, self.max_grad_norm)
            gradients = [each * scale for each in gradients]
        learning_rate = self.optimizer.get_lr()
        losses = ops.depend(losses, learning_rate)
        if finite:
            self.optimizer(tuple(gradients))
            for sound, each in zip(self.sound_statistics, self.statistics):
                ops.assign(sound, each)
        else:
            for sound, each in zip(self.sound_statistics, self.statistics):
                ops.assign(each, sound)
        return (losses[0], losses[1], losses[2]), learning_rate, finite
