"""What MindSpore Hub asks of a repository: its networks by name."""

from __future__ import annotations

from typing import Any

from mindspore import nn

from coupalign.config import load_config
from coupalign.model import build_model


def create_network(name: str, config: str = "default_config.yaml", **keys: Any) -> nn.Cell:
    """The network ``coupalign`` with random weights.

    Args:
        config: YAML file with what differs from default_config.yaml.
        keys: of the configuration, over the file, for instance ``image_size=480``.

    Raises:
        NotImplementedError: for another name.
        UserError: for a configuration that cannot be used.
    """
    if name != "coupalign":
        raise NotImplementedError(f"{name} is not implemented in this repository: it has coupalign")
    return build_model(load_config(config, keys))
