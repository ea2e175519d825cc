"""Throughput of the evaluation of a split beside its forward passes alone, in turns.

    python prepare_data.py --config configs/refshapes_tiny.yaml
    python -m benchmarks.evaluation --checkpoint assets/refshapes/model.safetensors --data_dir data/refshapes

Evaluation also reads and decodes images and masks, resizes probability maps to the images' size and counts pixels. The
forward passes alone run on one batch, in memory, as often. Compilation is left out.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from coupalign.cli import CHECKPOINT, command, option, parse_arguments

OPTIONS = [
    CHECKPOINT,
    option("--split NAME", "split to evaluate", default="val"),
    option("--samples INT", "samples of the split, a multiple of eval_batch_size", default=256),
    option("--rounds INT", "turns of each", default=7),
]


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, args = parse_arguments(__doc__, argv, OPTIONS)
    import numpy as np
    from mindspore import Tensor

    from coupalign.checkpoints.trained import trained_model
    from coupalign.data.dataset import Split
    from coupalign.devices import set_up
    from coupalign.evaluation.evaluate import evaluate_split

    set_up(config.run)
    model, split = trained_model(config, args.checkpoint), Split(config, args.split)
    size = config.evaluation.eval_batch_size
    first = list(split.samples(np.arange(size), config.data.num_workers))
    batch = [Tensor(np.stack([each[name] for each in first])) for name in ("image", "token_ids", "token_mask")]
    counted = 0

    def evaluation() -> None:
        nonlocal counted
        result = evaluate_split(model, config, split, args.split, args.samples, progress=False)
        counted = result.metrics["samples"]

    def forward() -> None:
        for _ in range(-(-counted // size)):
            outputs = model(*batch)
            (outputs[0] if isinstance(outputs, tuple) else outputs).asnumpy()

    evaluation()
    pairs = [(_seconds(evaluation), _seconds(forward)) for _ in range(args.rounds)]
    for name, times in zip(("evaluation", "forward passes alone"), zip(*pairs, strict=True), strict=True):
        print(f"{name}: {counted / statistics.median(times):.1f} samples per second")
    ratios = [alone / whole for whole, alone in pairs]
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
    return 0


def _seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    raise SystemExit(main())
