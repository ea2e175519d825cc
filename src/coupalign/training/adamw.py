"""AdamW of mindformers, with the whole update of a parameter in one operator."""

from __future__ import annotations

from collections.abc import Sequence

from mindformers.core.optim.adamw import AdamW
from mindspore import Parameter, Tensor, ops

from coupalign.training.update import on_each

_kernel = ops.AdamWeightDecay()


class FusedAdamW(AdamW):
    """mindformers' AdamW, which makes ten operators and as many passes over memory of each parameter's update.

    The operator here, ``p <- p - a (m / (sqrt(v) + e) + w p)``, knows nothing of bias correction. With
    ``c_i = 1 - beta_i^t`` it is AdamW at learning rate l, epsilon and decay d for ``a = l sqrt(c_2) / c_1``,
    ``e = epsilon sqrt(c_2)`` and ``w = d l / a``.

    Inputs: gradients of all parameters, in their order. Outputs: a tuple, to be ignored.
    """

    def construct(self, gradients: Sequence[Tensor]):
        decay = self.get_weight_decay()
        rate = self.get_lr()
        self.assignadd(self.global_step, self.global_step_increase_tensor)
        step = self.global_step.astype("float32").reshape(())
        first = 1 - ops.pow(self.beta1.reshape(()), step)
        root = ops.sqrt(1 - ops.pow(self.beta2.reshape(()), step))
        constants = root / first, self.beta1.reshape(()), self.beta2.reshape(()), self.eps.reshape(()) * root
        if self.is_group_lr:
            return on_each(
                ops.partial(_update, constants), rate, decay, self._parameters, gradients, self.exp_avg, self.exp_avg_sq
            )
        return on_each(
            ops.partial(_update, constants, rate), decay, self._parameters, gradients, self.exp_avg, self.exp_avg_sq
        )


def _update(
    constants: Sequence[Tensor],
    rate: Tensor,
    decay: float,
    parameter: Parameter,
    gradient: Tensor,
    mean: Parameter,
    square: Parameter,
):
    correction, beta1, beta2, epsilon = constants
    return _kernel(
        parameter, mean, square, rate.reshape(()) * correction, beta1, beta2, epsilon, decay / correction, gradient
    )
