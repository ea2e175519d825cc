"""Compares exported ONNX graphs with MindSpore on samples of a split: probabilities and IoU.

    python export.py --checkpoint assets/refshapes/model.safetensors --file_name runs/small.onnx --file_format ONNX
    python -m benchmarks.onnx_agreement --checkpoint assets/refshapes/model.safetensors --onnx runs/small.onnx --samples 50

Each graph runs in ONNX Runtime, in batches of eval_batch_size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from coupalign.cli import CHECKPOINT, command, option, parse_arguments
from coupalign.config import Config
from coupalign.files import find_file

OPTIONS = [
    CHECKPOINT,
    option("--onnx FILE,…", ".onnx files of export.py for this checkpoint", required=True),
    option("--split NAME", "split to evaluate", default="val"),
    option("--samples INT", "samples of the split", default=50),
]


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, args = parse_arguments(__doc__, argv, OPTIONS)
    from coupalign.checkpoints.loading import load_checkpoint
    from coupalign.devices import set_up
    from coupalign.model import build_model

    set_up(config.run)
    model = build_model(config, precision="fp32")
    load_checkpoint(args.checkpoint, model)
    expected = _report(config, args, "MindSpore", model.set_train(False))
    for file in map(find_file, args.onnx.split(",")):
        found = _report(config, args, file.name, _forward(file))
        difference = np.abs(found - expected)
        above = (found > config.evaluation.threshold) != (expected > config.evaluation.threshold)
        print(
            f"  largest difference {difference.max():.1e}, mean {difference.mean():.1e}, mask pixels {above.mean():.4%}"
        )
    return 0


def _report(config: Config, args, name: str, forward) -> np.ndarray:
    """Prints the metrics and returns the probability maps."""
    from coupalign.data.dataset import Split
    from coupalign.evaluation.evaluate import evaluate_split

    maps = []
    result = evaluate_split(
        forward,
        config,
        Split(config, args.split),
        args.split,
        args.samples,
        progress=False,
        on_sample=lambda row, sample, probability: maps.append(probability),
    )
    print(
        f"{name}: oIoU {result.metrics['oIoU']:.6f}, mIoU {result.metrics['mIoU']:.6f}, {len(maps)} samples", flush=True
    )
    return np.stack(maps)


def _forward(file: Path):
    """A function that computes the logits of a batch in ONNX Runtime."""
    import onnxruntime
    from mindspore import Tensor
    from scipy.special import logit

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def forward(*inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs = session.run(None, {name: each.asnumpy() for name, each in zip(names, inputs)})
        # The largest float32 below 1 stands for 1, whose logit is not finite.
        logits = [Tensor(logit(np.clip(each, 1e-30, np.float32(1 - 2**-24))).astype(np.float32)) for each in outputs]
        return logits[0] if len(logits) == 1 else tuple(logits)

    return forward


if __name__ == "__main__":
    raise SystemExit(main())
