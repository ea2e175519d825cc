"""mindformers' AdamW with the update of a parameter fused into one operator."""

from __future__ import annotations

from collections.abc import Sequence

from mindformers.core.optim.adamw import AdamW
from mindspore import Parameter, Tensor, ops

from coupalign.training.update import for_each

_adam_weight_decay = ops.AdamWeightDecay()


class FusedAdamW(AdamW):
    """AdamW that reads each parameter once per update. mindformers' own uses ten operators per parameter.

    The operator computes ``p <- p - a (m / (sqrt(v) + e) + w p)``, without bias correction. With
    ``c_i = 1 - beta_i^t``, learning rate l, epsilon and weight decay d, it equals AdamW for ``a = l sqrt(c_2) / c_1``,
    ``e = epsilon sqrt(c_2)`` and ``w = d l / a``.

    Inputs: gradients of all parameters, in their order. Outputs: a tuple without meaning.
    """

    def construct(self, gradients: Sequence[Tensor]):
        decay = self.get_weight_decay()
        rate = self.get_lr()
        self.assignadd(self.global_step, self.global_step_increase_tensor)
        step = self.global_step.astype("float32").reshape(())
        c_1 = 1 - ops.pow(self.beta1.reshape(()), step)
        root_c_2 = ops.sqrt(1 - ops.pow(self.beta2.reshape(()), step))
        constants = root_c_2 / c_1, self.beta1.reshape(()), self.beta2.reshape(()), self.eps.reshape(()) * root_c_2
        if self.is_group_lr:
            update = ops.partial(_update, constants)
            return for_each(update, rate, decay, self._parameters, gradients, self.exp_avg, self.exp_avg_sq)
        update = ops.partial(_update, constants, rate)
        return for_each(update, decay, self._parameters, gradients, self.exp_avg, self.exp_avg_sq)


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
    return _adam_weight_decay(
        parameter, mean, square, rate.reshape(()) * correction, beta1, beta2, epsilon, decay / correction, gradient
    )
