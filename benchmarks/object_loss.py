"""Time and memory of set prediction beside the paper's model: Y_N, matching and both losses, forward and backward.

    python -m benchmarks.object_loss

Batch 2, 448x448, 20 proposals of 112x112, 16 objects. Passes take turns. The script prints the median ratio of
processor time to three forward passes of the whole model, which is less than a training step, and the increase of
memory from before the pass to its peak, with the graph compiled.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor, nn, value_and_grad

from benchmarks.resident import resident
from coupalign import devices
from coupalign.config import load_config
from coupalign.kernels import use_kernels
from coupalign.loss import ObjectLoss
from coupalign.model import build_model
from coupalign.model.positions import anchor_points
from coupalign.model.sma import SentenceMaskAlignment

BATCH, ROUNDS = 2, 5


class SetPrediction(nn.Cell):
    """The loss of mask embeddings (B, N, D) and pixels Y_1 (B, d_s, h, w), and its gradient."""

    def __init__(self, sma: SentenceMaskAlignment, loss: ObjectLoss):
        super().__init__()
        self.sma, self.loss = sma, loss
        self.value_and_grad = value_and_grad(self.forward, grad_position=(0, 1))

    def forward(self, embeddings: Tensor, pixels: Tensor, weights: Tensor, objects: Tensor, mask: Tensor) -> Tensor:
        return self.loss(self.sma.masks(embeddings, pixels), weights, objects, mask)[0]

    def construct(self, embeddings: Tensor, pixels: Tensor, weights: Tensor, objects: Tensor, mask: Tensor) -> Any:
        return self.value_and_grad(embeddings, pixels, weights, objects, mask)


def processor_time(network: nn.Cell, inputs: list[Tensor]) -> float:
    """Seconds of one pass."""
    start = time.process_time()
    outputs = network(*inputs)
    outputs[0].asnumpy()
    return time.process_time() - start


def main() -> int:
    config = load_config(None, {"query_anchors": True})
    devices.set_up(config.run)
    keys, objects = config.model, config.losses.max_objects
    model = use_kernels(build_model(config), config.run).set_train(False)
    random, side, count = np.random.default_rng(0), keys.image_size // 4, keys.num_queries
    tokens = np.ones((BATCH, keys.max_tokens), np.int32)
    inputs = [random.standard_normal((BATCH, 3, keys.image_size, keys.image_size), np.float32), tokens, tokens]
    loss = SetPrediction(model.sma, ObjectLoss(anchor_points(count), 1.0, 1.0))
    owners = random.integers(0, objects, (BATCH, 1, side, side))
    masks = (owners == np.arange(objects)[:, None, None]).astype(np.float32)
    arrays = [
        random.standard_normal((BATCH, count, keys.bert_hidden_size), np.float32),
        random.standard_normal((BATCH, keys.seg_head_dim, side, side), np.float32),
        np.full((BATCH, count), 1 / count, np.float32),
        masks,
        masks[:, 0].repeat(4, 1).repeat(4, 2),
    ]
    cases = [(loss, [Tensor(each) for each in arrays]), (model, [Tensor(each) for each in inputs])]
    for network, tensors in cases:
        network.compile(*tensors)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets the peak
    before = resident("VmRSS")
    processor_time(*cases[0])
    memory = resident("VmHWM") - before
    processor_time(*cases[1])
    times = np.array([[processor_time(*case) for case in cases] for _ in range(ROUNDS)])
    ratio = np.median(times[:, 0] / times[:, 1] / 3)
    print(
        f"set prediction {np.median(times[:, 0]) * 1e3:.0f} ms, {ratio:.1%} of three forward passes, {memory / 1e6:.0f} MB"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
