"""AdamW and its polynomial schedule, from mindformers."""
from __future__ import annotations

import logging
import os
import tempfile

from mindspore import Parameter, nn

from src.config import Config
from src.errors import UserError

UNDECAYED = ("bias", "gamma", "beta", "relative_position_bias_table", "position_embedding",
             "position_embeddings.embedding_table")


def make_optimizer(config: Config, parameters: list[Parameter], steps_per_epoch: int) -> nn.Cell:
    """AdamW with the learning rate of 4.1.

    From ``learning_rate`` it falls as a polynomial of ``decay_power`` to ``end_learning_rate`` at epoch
    ``decay_epochs`` and stays there. Weights decay, but biases, norms and position tables do not.

    Args:
        parameters: to train, in the order in which gradients will come.

    Raises: UserError where warming up would take as long as the decay.
    """
    decay_steps = config.decay_epochs * steps_per_epoch
    if config.warmup_steps >= decay_steps:
        raise UserError(f"warmup_steps {config.warmup_steps} leaves nothing of the {decay_steps} steps of decay_epochs "
                        f"{config.decay_epochs}: lower it")
    adamw, polynomial = _from_mindformers()
    schedule = polynomial(
        learning_rate=config.learning_rate, lr_end=config.end_learning_rate, power=config.decay_power,
        warmup_steps=config.warmup_steps, total_steps=decay_steps)
    groups = [{"params": [p for p in parameters if not p.name.endswith(UNDECAYED)],
               "weight_decay": config.weight_decay},
              {"params": [p for p in parameters if p.name.endswith(UNDECAYED)], "weight_decay": 0.0},
              {"order_params": parameters}]
    return adamw(groups, learning_rate=schedule, weight_decay=config.weight_decay)


def _from_mindformers() -> tuple[type, type]:
    """AdamW and PolynomialWithWarmUpLR, imported late: mindformers takes seconds, and warns of models it lacks."""
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as logs:
            # It makes a directory of logs in the working directory, unless told where.
            os.environ.setdefault("LOCAL_DEFAULT_PATH", logs)
            from mindformers.core.lr import PolynomialWithWarmUpLR
            from mindformers.core.optim import AdamW
    finally:
        logging.disable(logging.NOTSET)
    return AdamW, PolynomialWithWarmUpLR
