"""Networks of this repository for MindSpore Hub."""

from __future__ import annotations

from typing import Any

from mindspore import nn

from coupalign import build_model, load_config


def create_network(name: str, config: str | None = None, **keys: Any) -> nn.Cell:
    """The network ``coupalign`` with random weights.

    Args:
        name: "coupalign".
        config: YAML file with keys that differ from default_config.yaml.
        keys: Keys of the configuration that override the file, for instance ``image_size=480``.

    Raises:
        NotImplementedError: For another name.
        UserError: For a configuration that cannot be used.
    """
    if name != "coupalign":
        raise NotImplementedError(f"unknown network {name!r}: this repository has coupalign")
    return build_model(load_config(config, keys))
