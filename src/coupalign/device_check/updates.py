"""Updates: AdamW against PyTorch, and updates that must be skipped."""

from __future__ import annotations

from collections.abc import Mapping

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, nn

from coupalign.config import load_config
from coupalign.device_check.modules import REFERENCES, TOLERANCE, relative_error
from coupalign.device_check.rows import Outcome
from coupalign.training.optimizer import make_optimizer
from coupalign.training.step import TrainStep

# A learning rate that warms up, falls and stays, clipping and weight decay within a few updates.
SETTINGS = {
    "learning_rate": 0.1,
    "end_learning_rate": 0.02,
    "weight_decay": 0.3,
    "epochs": 2,
    "decay_epochs": 2,
    "warmup_steps": 2,
}
STEPS_PER_EPOCH, MAX_GRAD_NORM = 3, 0.5


class Quadratic(nn.Cell):
    """``L = sum(w^2 x) + sum(b^2 y)`` for parameters w (3, 4) and b (4,). Inputs: x (3, 4); y (4,)."""

    def __init__(self):
        super().__init__()
        weight, bias = np.linspace(-1, 1, 12, dtype=np.float32), np.linspace(0.5, 1, 4, dtype=np.float32)
        self.weight = Parameter(Tensor(weight.reshape(3, 4)), name="fc.weight")
        self.bias = Parameter(Tensor(bias), name="fc.bias")

    def construct(self, x: Tensor, y: Tensor):
        loss = (self.weight * self.weight * x).sum() + (self.bias * self.bias * y).sum()
        return loss, loss, loss


class Normalised(nn.Cell):
    """A product in float16 after batch normalisation. Inputs: x (2, 3, 4, 4); y, factor of the loss, (1,)."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.fc = nn.Dense(16, 8, weight_init="ones").to_float(mindspore.float16)

    def construct(self, x: Tensor, y: Tensor):
        loss = (self.fc(self.norm(x).reshape(6, 16)).astype("float32") * y).mean()
        return loss, loss, loss


def compare_adamw() -> Outcome:
    """Weights after each of several updates against PyTorch's AdamW in float64."""
    with np.load(REFERENCES) as file:
        x, y, weight, bias = (file[f"adamw/{name}"] for name in ("x", "y", "weight", "bias"))
    objective = Quadratic()
    step, errors = _step(objective), []
    for number in range(len(x)):
        step.update([{"x": Tensor(x[number]), "y": Tensor(y[number])}], 0, number, [0])
        for parameter, expected in ((objective.weight, weight[number]), (objective.bias, bias[number])):
            errors.append(relative_error(parameter.asnumpy(), expected, float(np.abs(expected).max())))
    return Outcome(max(errors), TOLERANCE, f"weights after each of {len(x)} updates")


def skip_nan() -> Outcome:
    """A loss that is not a number must change nothing."""
    return _skip(np.nan, scales_loss=False)


def skip_overflow() -> Outcome:
    """A finite loss with a gradient that is not, in float16: only the loss scale may change, which is halved."""
    return _skip(1e4, scales_loss=True)


def _skip(factor: float, scales_loss: bool) -> Outcome:
    """Makes an update, one with a loss of this factor that must be skipped, and another."""
    step = _step(Normalised(), scales_loss).set_train()
    x = np.random.default_rng(0).standard_normal((3, 2, 3, 4, 4)).astype(np.float32)
    states, made = [], []
    for number, y in enumerate((1.0, factor, 1.0)):
        result = step.update([{"x": Tensor(x[number]), "y": Tensor(np.array([y], np.float32))}], 0, number, [0])
        made.append(bool(result.finite.asnumpy()))
        states.append({name: each.asnumpy().copy() for name, each in step.state().items()})
    if made != [True, False, True]:
        wrong = "the update was not skipped" if made[1] else "a finite update was skipped"
        return Outcome(note=wrong, status="FAIL")
    if scales_loss:
        before, after = (float(state.pop("loss_scale").reshape(())) for state in states[:2])
        if after != before / 2:
            return Outcome(note=f"the loss scale went from {before:g} to {after:g}: it must be halved", status="FAIL")
        for state in states[:2]:
            state.pop("loss_scale_counter")
    return Outcome(_largest_change(*states[:2]), 0, "change of weights, moments, statistics and step count")


def _largest_change(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> float:
    """Largest difference between two states; inf if one has values that are not finite."""
    changes = [np.abs(after[name].astype(np.float64) - value).max() for name, value in before.items()]
    return float(np.nan_to_num(changes, nan=np.inf).max())


def _step(objective: nn.Cell, scales_loss: bool = False) -> TrainStep:
    settings = load_config(overrides=SETTINGS).training
    optimizer = make_optimizer(settings, objective.trainable_params(), STEPS_PER_EPOCH)
    return TrainStep(objective, optimizer, MAX_GRAD_NORM, 1, scales_loss=scales_loss, columns=("x", "y"))
