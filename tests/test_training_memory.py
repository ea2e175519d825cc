"""What a training step keeps in memory, as MindSpore's pool counts it in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from coupalign.files import REPOSITORY


class Wide(nn.Cell):
    """A residual block that is 16 times as wide inside."""

    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Dense(16, 256), nn.Dense(256, 16)

    def construct(self, x):
        return x + self.leave(ops.tanh(self.enter(x)))


class Blocks(nn.Cell):
    """An objective of eight of them, on 4,096 rows: 4.2 MB before and 4.2 MB after each tanh, .3 MB in between."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.CellList([Wide() for _ in range(8)])
        self.scale = Parameter(Tensor(np.ones(16, np.float32)), name="scale")

    def construct(self, image, token_ids, token_mask, mask):
        x = image
        for block in self.blocks:
            x = block(x)
        loss = (x * self.scale).sum()
        return loss, loss, loss


def main(recompute: bool) -> None:
    from coupalign.config import load_config
    from coupalign.devices import set_up
    from coupalign.training.optimizer import make_optimizer
    from coupalign.training.step import TrainStep

    config = load_config()
    set_up(config.run)
    objective = Blocks()
    if recompute:
        for block in objective.blocks:
            block.recompute()
    step = TrainStep(objective, make_optimizer(config.training, objective.trainable_params(), 100), 1.0, 4096)
    x = Tensor(np.ones((4096, 16), np.float32))
    batch = {name: x for name in ("image", "token_ids", "token_mask", "mask")}
    for number in range(2):
        assert step.update([batch], 0, number, [0])[2]


@pytest.mark.slow
def test_recomputation_keeps_what_goes_into_blocks_alone():
    peaks = []
    for argument in ("plain", "recompute"):
        done = subprocess.run(
            [sys.executable, "-m", "tests.test_training_memory", argument],
            cwd=REPOSITORY,
            text=True,
            env={**os.environ, "MS_DEV_RUNTIME_CONF": "memory_statistics:True"},
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        peaks.append(int(re.findall(r"pool total .*? peak used mem:(\d+)M", done.stdout + done.stderr)[-1]))
    plain, recomputed = peaks
    assert plain > 30 and recomputed < 25, peaks


if __name__ == "__main__":
    main(sys.argv[1] == "recompute")
