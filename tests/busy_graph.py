"""Program for test_signals.py: runs graphs until a signal arrives, and prints its name."""

from __future__ import annotations

import signal

from coupalign.signals import HANDLED, take_signals

take_signals()

import mindspore  # noqa: E402
import numpy as np  # noqa: E402
from mindspore import Tensor, nn, ops  # noqa: E402


class Busy(nn.Cell):
    def construct(self, x: Tensor) -> Tensor:
        for _ in range(20):
            x = ops.matmul(x, x) * 1e-3
        return x


if __name__ == "__main__":
    received = []
    for each in HANDLED:
        signal.signal(each, lambda number, frame: received.append(number))
    mindspore.set_context(mode=mindspore.GRAPH_MODE, device_target="CPU")
    cell, x = Busy(), Tensor(np.full((600, 600), 1e-3, np.float32))
    cell(x).asnumpy()
    print("busy", flush=True)
    while not received:
        cell(x)
    print(f"received {received[0]}", flush=True)
