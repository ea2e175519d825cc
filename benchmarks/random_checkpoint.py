"""Writes a checkpoint of random weights, to compare programs without a training.

    python -m benchmarks.random_checkpoint --config configs/refshapes_tiny.yaml --output_dir runs/random

No weight is zero, so that no term of the model is hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from coupalign.cli import command, parse_arguments
from coupalign.config import Config
from coupalign.files import make_directory


def write_random_checkpoint(config: Config, directory: Path) -> Path:
    """Writes best.ckpt, with weights from the configuration's seed, and config.yaml. Returns the path of best.ckpt.

    Norms have random statistics and gates are open. Masks are neither empty nor full.
    """
    import mindspore
    from mindspore import Tensor

    from coupalign.model import build_model

    random = np.random.default_rng(config.run.seed)
    model = build_model(config)
    for name, parameter in model.parameters_dict().items():
        if name.endswith(("gamma", "moving_variance")):
            value = 0.5 + random.random(parameter.shape)
        else:
            value = random.standard_normal(parameter.shape)
            value /= np.sqrt(np.prod(parameter.shape[1:])) if len(parameter.shape) > 1 else 4
        if name == "sma.pixel_proj.weight":
            value /= 8  # the logits of random features would saturate the sigmoid
        parameter.set_data(Tensor(value.astype(np.float32)))
    mindspore.save_checkpoint(model, str(directory / "best.ckpt"))
    config.save(directory / "config.yaml")
    return directory / "best.ckpt"


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, _ = parse_arguments(__doc__, argv)
    print(write_random_checkpoint(config, make_directory(config.run.output_dir)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
