"""Time and memory of forward passes with random weights in graph mode.

    python -m benchmarks.forward_memory --images 1 --forwards 3

It prints the number of parameters, compilation time, seconds per pass and peak memory.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence

from coupalign.cli import command, option, parse_arguments

OPTIONS = [
    option("--images INT", "batch size", default=1),
    option("--forwards INT", "passes to time", default=3),
]


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, args = parse_arguments(__doc__, argv, OPTIONS)
    import numpy as np
    from mindspore import Tensor

    from coupalign.devices import set_up
    from coupalign.model import build_model

    set_up(config.run)
    model = build_model(config).set_train(False)
    print(f"trainable parameters: {sum(parameter.size for parameter in model.trainable_params()):,}")
    print(f"peak memory after building: {_peak():.2f} GB")
    image = np.random.standard_normal((args.images, 3, config.model.image_size, config.model.image_size)).astype(
        np.float32
    )
    words = np.ones((args.images, config.model.max_tokens), np.int32)
    inputs = Tensor(image), Tensor(words), Tensor(words)
    seconds = []
    for _ in range(args.forwards + 1):
        start = time.perf_counter()
        model(*inputs).asnumpy()
        seconds.append(time.perf_counter() - start)
    print(f"first pass, with compilation: {seconds[0]:.1f} s")
    print("passes: " + ", ".join(f"{each:.2f}" for each in seconds[1:]) + " s")
    print(f"peak memory: {_peak():.2f} GB")
    return 0


def _peak() -> float:
    """Peak resident memory of this process, in GB (10^9 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    raise SystemExit(main())
