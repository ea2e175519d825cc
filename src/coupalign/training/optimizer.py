"""AdamW and its polynomial schedule, from mindformers."""

from __future__ import annotations

import difflib
import logging
import os
import tempfile
from collections.abc import Sequence
from fnmatch import fnmatchcase

from mindspore import Parameter, nn

from coupalign.config import Config
from coupalign.errors import UserError

UNDECAYED = (
    "bias",
    "gamma",
    "beta",
    "relative_position_bias_table",
    "position_embedding",
    "position_embeddings.embedding_table",
)


def freeze(model: nn.Cell, patterns: Sequence[str]) -> None:
    """Takes parameters out of training whose names match one of `patterns` (``*``, ``?``, ``[…]`` as in file names).

    Raises: UserError where a pattern matches none, or nothing is left to train.
    """
    for pattern in patterns:
        names = _matching("frozen", pattern, [each.name for each in model.get_parameters()])
        for parameter in model.get_parameters():
            if parameter.name in names:
                parameter.requires_grad = False
    if not model.trainable_params():
        raise UserError(f"frozen {', '.join(patterns)} leaves nothing to train: remove a pattern")


def make_optimizer(config: Config, parameters: list[Parameter], steps_per_epoch: int) -> nn.Cell:
    """AdamW with the learning rate of 4.1.

    From ``learning_rate`` it falls as a polynomial of ``decay_power`` to ``end_learning_rate`` at epoch
    ``decay_epochs`` and stays there. Weights decay, but biases, norms and position tables do not.
    ``learning_rate_scales`` and ``weight_decays`` change this for parameters by name.

    Args:
        parameters: to train, in the order in which gradients will come.

    Returns: the optimiser; its ``schedule`` gives the learning rate without scales.

    Raises: UserError where warming up would take as long as the decay, or a pattern matches no parameter.
    """
    decay_steps = config.training.decay_epochs * steps_per_epoch
    if config.training.warmup_steps >= decay_steps:
        raise UserError(
            f"warmup_steps {config.training.warmup_steps} leaves nothing of the {decay_steps} steps of decay_epochs "
            f"{config.training.decay_epochs}: lower it"
        )
    adamw, polynomial = _from_mindformers()

    def schedule(scale: float) -> nn.Cell:
        return polynomial(
            learning_rate=config.training.learning_rate * scale,
            lr_end=config.training.end_learning_rate * scale,
            power=config.training.decay_power,
            warmup_steps=config.training.warmup_steps,
            total_steps=decay_steps,
        )

    names = [each.name for each in parameters]
    scales = _values("learning_rate_scales", config.training.learning_rate_scales, names)
    decays = _values("weight_decays", config.training.weight_decays, names)
    groups = {}
    for each in parameters:
        decay = decays.get(each.name, 0.0 if each.name.endswith(UNDECAYED) else config.training.weight_decay)
        scale = scales.get(each.name, 1.0)
        group = groups.setdefault((scale, decay), {"params": [], "weight_decay": decay})
        group["params"].append(each)
        if scales:  # with a schedule of its own for each group, the optimiser computes one for each parameter
            group.setdefault("lr", schedule(scale))
    optimizer = adamw([*groups.values(), {"order_params": parameters}], learning_rate=schedule(1.0))
    optimizer.schedule = schedule(1.0)
    return optimizer


def _values(key: str, entries: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """What the first of the ``pattern=value`` entries of configuration `key` that matches a name gives for it."""
    values = {}
    for entry in entries:
        pattern, _, value = entry.rpartition("=")
        for name in _matching(key, pattern, names):
            values.setdefault(name, float(value))
    return values


def _matching(key: str, pattern: str, names: Sequence[str]) -> list[str]:
    matching = [name for name in names if fnmatchcase(name, pattern)]
    if not matching:
        nearest = difflib.get_close_matches(pattern, names, n=1, cutoff=0)[0]
        raise UserError(
            f"{key}: no parameter that is trained is called {pattern!r}, the nearest is {nearest}: mend the pattern"
        )
    return matching


def _from_mindformers() -> tuple[type, type]:
    """FusedAdamW and PolynomialWithWarmUpLR, imported late: mindformers takes seconds, and warns of models it lacks."""
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as logs:
            # It makes a directory of logs in the working directory, unless told where.
            os.environ.setdefault("LOCAL_DEFAULT_PATH", logs)
            from mindformers.core.lr import PolynomialWithWarmUpLR

            from coupalign.training.adamw import FusedAdamW
    finally:
        logging.disable(logging.NOTSET)
    return FusedAdamW, PolynomialWithWarmUpLR
