"""How MindSpore runs: decided once, by the programs, never at import."""

from __future__ import annotations

import os

import mindspore
import numpy as np

from coupalign import devices
from coupalign.config import Config
from coupalign.errors import UserError


def set_up(config: Config) -> None:
    """Graph mode on the configured device, the other ranks joined if there are any, and all seeds.

    Raises: UserError where the device is not to be had.
    """
    # On AVX-512 machines oneDNN runs MindSpore's 3x3 convolutions with a reference kernel, some fifty times slower.
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
    try:
        mindspore.set_context(mode=mindspore.GRAPH_MODE, device_target=config.run.device_target)
        if config.run.device_target == "GPU":
            # Without it, MindSpore 2.9 reuses the memory of constants of the update's branch there: garbage is learnt.
            mindspore.set_context(memory_optimize_level="O1")
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"device_target {config.run.device_target} is not available here "
            "(no such device, or a MindSpore without its back end): use --device_target CPU"
        ) from error
    devices.initialise(config)
    mindspore.set_seed(config.run.seed)
    np.random.seed(config.run.seed)
