"""Runs samples in MindSpore for the benchmarks; the Python that runs it decides the version.

    python -m benchmarks.mindspore_worker CHECKPOINT INPUTS OUTPUT

INPUTS is a directory written by preprocess.py. The probabilities of each sample go to OUTPUT/<number>_0.bin, as from
the C++ program.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(checkpoint: str, inputs: str, output: str) -> None:
    import numpy as np
    from mindspore import Tensor

    from coupalign.checkpoints.loading import load_checkpoint
    from coupalign.config import load_config
    from coupalign.devices import set_up
    from coupalign.inference.graph import ExportGraph
    from coupalign.model import build_model

    config = load_config(Path(checkpoint).with_name("config.yaml"))
    set_up(config.run)
    model = build_model(config, precision="fp32")
    load_checkpoint(checkpoint, model)
    network = ExportGraph(model).set_train(False)
    shapes = (
        (1, 3, config.model.image_size, config.model.image_size),
        (1, config.model.max_tokens),
        (1, config.model.max_tokens),
    )
    directories = sorted(Path(inputs).iterdir())
    for file in sorted(directories[0].iterdir()):
        arrays = (
            np.fromfile(directory / file.name, dtype).reshape(shape)
            for directory, dtype, shape in zip(directories, (np.float32, np.int32, np.int32), shapes)
        )
        network(*map(Tensor, arrays)).asnumpy().tofile(Path(output) / f"{file.stem}_0.bin")


if __name__ == "__main__":
    main(*sys.argv[1:])
