"""Trained models."""

from __future__ import annotations

import os

from mindspore.nn.utils import no_init_parameters

from coupalign.checkpoints.loading import load_checkpoint
from coupalign.config import Config
from coupalign.kernels import use_kernels
from coupalign.model import CoupAlign, build_model


def trained_model(config: Config, checkpoint: str | os.PathLike) -> CoupAlign:
    """The model of a configuration with the weights of a checkpoint, in evaluation mode.

    It has the CPU kernels that the configuration asks for. Random initial weights are not drawn, which saves time, and
    memory while the checkpoint is read.

    Raises: UserError as ``load_checkpoint``.
    """
    with no_init_parameters():
        model = use_kernels(build_model(config), config.run)
    load_checkpoint(checkpoint, model)
    return model.set_train(False)
