"""AdamW with its polynomial learning-rate schedule (paper, 4.1), based on mindformers."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mindspore import Parameter, nn

from coupalign.checkpoints.loading import matching_names
from coupalign.checks import check_warmup
from coupalign.config import TrainingConfig
from coupalign.errors import UserError

# Ends of the names of parameters without weight decay.
_TABLES = ("relative_position_bias_table", "position_embedding", "position_embeddings.embedding_table")
UNDECAYED = ("bias", "gamma", "beta", *_TABLES)


def freeze(model: nn.Cell, patterns: Sequence[str]) -> None:
    """Excludes from training all parameters whose names match one of `patterns` (``*``, ``?``, ``[…]``).

    Raises:
        UserError: A pattern matches no parameter, or no trainable parameter is left.
    """
    parameters = {each.name: each for each in model.get_parameters()}
    for pattern in patterns:
        for name in matching_names("frozen", pattern, list(parameters)):
            parameters[name].requires_grad = False
    if not model.trainable_params():
        raise UserError(f"frozen {', '.join(patterns)} leaves no trainable parameter: remove a pattern")


def make_optimizer(
    settings: TrainingConfig, parameters: list[Parameter], steps_per_epoch: int, frozen: Sequence[str] = ()
) -> nn.Cell:
    """Builds AdamW with the learning rate of 4.1.

    The rate falls as a polynomial of ``decay_power`` from ``learning_rate`` to ``end_learning_rate`` at epoch
    ``decay_epochs`` and stays there. Biases, norms and position tables have no weight decay.
    ``learning_rate_scales`` and ``weight_decays`` override both by parameter name.

    Args:
        settings: The section ``training`` of the configuration.
        parameters: Trainable parameters in the order of their gradients.
        steps_per_epoch: Updates per epoch.
        frozen: Names of the parameters that are not trained, for messages.

    Returns: The optimizer. Its ``schedule`` is the learning rate without scales.

    Raises:
        UserError: The warm-up is not shorter than the decay, or a pattern matches no trainable parameter.
    """
    check_warmup(settings, steps_per_epoch)
    decay_steps = settings.decay_epochs * steps_per_epoch
    with _quiet_import():  # late, because importing mindformers takes seconds
        from mindformers.core.lr import PolynomialWithWarmUpLR

        from coupalign.training.adamw import FusedAdamW

    def schedule(scale: float) -> nn.Cell:
        first, last, steps = settings.learning_rate * scale, settings.end_learning_rate * scale, settings.warmup_steps
        return PolynomialWithWarmUpLR(
            learning_rate=first, lr_end=last, power=settings.decay_power, warmup_steps=steps, total_steps=decay_steps
        )

    names = [each.name for each in parameters]
    scales = _values_by_name("learning_rate_scales", settings.learning_rate_scales, names, frozen)
    decays = _values_by_name("weight_decays", settings.weight_decays, names, frozen)
    groups: dict[tuple[float, float], dict] = {}
    for each in parameters:
        decay = decays.get(each.name, 0.0 if each.name.endswith(UNDECAYED) else settings.weight_decay)
        scale = scales.get(each.name, 1.0)
        group = groups.setdefault((scale, decay), {"params": [], "weight_decay": decay})
        group["params"].append(each)
        if scales:  # only if needed: with a schedule per group, AdamW computes the rate once per parameter
            group.setdefault("lr", schedule(scale))
    optimizer = FusedAdamW([*groups.values(), {"order_params": parameters}], learning_rate=schedule(1.0))
    optimizer.schedule = schedule(1.0)
    return optimizer


def _values_by_name(key: str, entries: Sequence[str], names: Sequence[str], frozen: Sequence[str]) -> dict[str, float]:
    """Values of the ``pattern=value`` entries of configuration `key`, by parameter name; the first match counts."""
    values: dict[str, float] = {}
    for entry in entries:
        pattern, _, value = entry.rpartition("=")
        matching = matching_names(key, pattern, [*names, *frozen], "trainable parameter")
        if set(matching) <= set(frozen):
            raise UserError(f"{key} has {entry!r}, but all parameters that match are frozen: remove this entry")
        for name in matching:
            values.setdefault(name, float(value))
    return values


@contextmanager
def _quiet_import() -> Iterator[None]:
    """Within the block, importing mindformers neither logs warnings nor creates ``./output/log``.

    mindformers warns about optional models at import and creates its log directory under ``LOCAL_DEFAULT_PATH``. The
    caller's logging level and environment are restored afterwards.
    """
    level = logging.root.manager.disable
    path = os.environ.get("LOCAL_DEFAULT_PATH")
    logging.disable(max(level, logging.WARNING))
    try:
        with tempfile.TemporaryDirectory() as directory:
            os.environ.setdefault("LOCAL_DEFAULT_PATH", directory)
            yield
    finally:
        logging.disable(level)
        if path is None:
            os.environ.pop("LOCAL_DEFAULT_PATH", None)
