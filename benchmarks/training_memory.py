"""Memory of a training step: computed from the configuration, or measured on the CPU.

    python -m benchmarks.training_memory --batch_size 16
    python -m benchmarks.training_memory --config configs/refshapes_tiny.yaml --measure 64,128

The first command prints the computed memory in GB (10^9 bytes) of one device, with and without recomputation. The
second one runs steps with random inputs, in one process per batch size, and compares the added peak memory per sample
with the computed one. It reads the peak from MindSpore's memory pool, because the pool takes blocks of 1 GB from the
system. Both leave out the auxiliary loss.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coupalign.cli import command, option, parse_arguments
from coupalign.config import Config, load_config
from coupalign.errors import UserError
from coupalign.files import REPOSITORY

ONE = "--one"  # only for the processes that --measure starts


@dataclass
class Kept:
    """Number of activations of one sample that the backward pass needs, by precision.

    Attributes:
        full: float32.
        low: In the precision of matrix products.
        both: float32, with a copy in the precision of matrix products if that differs.
    """

    full: int = 0
    low: int = 0
    both: int = 0

    def __add__(self, other: Kept) -> Kept:
        return Kept(self.full + other.full, self.low + other.low, self.both + other.both)

    def bytes(self, precision: str) -> int:
        low = 4 if precision == "fp32" else 2
        return 4 * self.full + low * self.low + (4 if low == 4 else 4 + low) * self.both


def block(tokens: int, dim: int, heads: int, window: int) -> Kept:
    """Activations of a transformer block with attention among `window` tokens, including its input.

    float32: inputs of the two norms; x, the argument of erf and Phi of GELU. Lower precision: inputs of the six
    linear layers, query, key and value.
    """
    return Kept(full=tokens * (2 * dim + 12 * dim), low=tokens * (4 * dim + 6 * dim), both=tokens * window * heads)


def activations(config: Config) -> tuple[list[tuple[Kept, Kept]], Kept]:
    """Activations of one sample: pairs (inside, input) for each encoder block, and the rest of the model."""
    words, text, joint, out = (
        config.model.max_tokens,
        config.model.bert_hidden_size,
        config.model.wpa_dim,
        config.model.seg_head_dim,
    )
    blocks = [
        (block(words, text, config.model.bert_num_heads, words), Kept(full=words * text))
    ] * config.model.bert_num_layers
    rest = Kept(full=3 * config.model.image_size**2)  # sizes of the image: the image, logits and the loss
    for i in range(4):
        dim, side = config.model.swin_embed_dim * 2**i, config.model.image_size // 4 // 2**i
        window, pixels = min(side, config.model.swin_window_size), side**2
        tokens = (-(-side // window) * window) ** 2
        inside = block(tokens, dim, config.model.swin_num_heads[i], window**2)
        blocks += [(inside, Kept(full=tokens * dim))] * config.model.swin_depths[i]
        rest += Kept(low=pixels * dim)  # V_i as the segmentation head convolves it
        if config.model.wpa_direction != "none" and i + 1 in config.model.wpa_stages:
            directions = 2 if config.model.wpa_direction == "bi" else 1
            rest += Kept(full=pixels * joint, low=pixels * (4 * dim + 2 * joint), both=pixels * words * directions)
        if i < 3:
            rest += Kept(full=pixels * dim, low=pixels * dim)  # patch merging: norm, linear layer
        # Two convolutions, ReLU and batch norm each; the last stage's are as wide inside.
        rest += Kept(low=side**2 // (4 if i < 3 else 1) * out * 2, both=side**2 // (4 if i < 3 else 1) * out * 2)
    image = (config.model.image_size // 32) ** 2
    both = image + words
    rest += Kept(low=(3 * both + 3 * image) * text, both=config.model.cross_attention_heads * image * both)
    if config.model.sma:
        queries, dim, layers = config.model.num_queries, config.model.decoder_dim, config.model.decoder_layers
        rest += Kept(
            full=3 * queries * dim * layers,
            low=layers * (12 * queries * dim + 2 * image * dim + queries * config.model.decoder_ffn_dim),
            both=layers * config.model.decoder_heads * queries * (queries + image),
        )
    return blocks, rest + Kept(full=out * (config.model.image_size // 4) ** 2)  # Y_1


def per_sample(config: Config, recompute: bool) -> tuple[float, float]:
    """Bytes that one sample adds: what is kept for the backward pass, and what the largest block needs temporarily.

    With recomputation, the second is the inside of the recomputed block and as much for its gradients.
    """
    blocks, rest = activations(config)
    kept = rest.bytes(config.run.precision) + sum(each[recompute].bytes(config.run.precision) for each in blocks)
    largest = max(inside.bytes(config.run.precision) for inside, _ in blocks)
    return kept, largest * (2 if recompute else 1)


def table(config: Config, parameters: int) -> str:
    """The computed memory as a table."""
    # The copy of clipped gradients exists only in the update, when the activations are released.
    copies = {
        "parameters": 1,
        "gradients": 1,
        "AdamW's two moments": 2,
        "moving average": int(config.training.ema_decay > 0),
        "sums of gradients": int(config.training.accumulation_steps > 1),
    }
    lines = [
        f"{parameters:,} trained parameters; {config.run.precision}, {config.model.image_size} pixels, "
        f"batch {config.training.batch_size} in {config.training.accumulation_steps} parts"
    ]
    lines += [f"{name:42}{4e-9 * count * parameters:7.2f} GB" for name, count in copies.items() if count]
    micro_batch = config.training.batch_size // config.training.accumulation_steps
    for recompute in (False, True):
        kept, largest = (micro_batch * each / 1e9 for each in per_sample(config, recompute))
        lines += [
            f"{'with' if recompute else 'without'} recomputation:",
            f"  {'activations kept':40}{kept:7.2f} GB",
            f"  {'largest block, backward pass':40}{largest:7.2f} GB",
            f"  {'all':40}{kept + largest + 4e-9 * parameters * sum(copies.values()):7.2f} GB",
        ]
    return "\n".join(lines)


OPTIONS = [
    option("--measure INT,INT", "two batch sizes to run"),
    option(ONE, argparse.SUPPRESS),
]


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, args = parse_arguments(__doc__, argv, OPTIONS)
    if args.one:
        _run_steps(config)
        return 0
    if not args.measure:
        from coupalign.model import build_model

        parameters = sum(each.size for each in build_model(config).trainable_params())
        print(table(config, parameters))
        return 0
    sizes = [int(each) for each in args.measure.split(",")]
    for recompute in (False, True):
        peaks = [_measured(config, size, recompute) for size in sizes]
        kept, largest = (each / 1e6 for each in per_sample(config, recompute))
        written = ", ".join(f"{each / 1e9:.2f}" for each in peaks)
        slope = (peaks[1] - peaks[0]) / (sizes[1] - sizes[0]) / 1e6
        print(
            f"recompute {str(recompute).lower()}: peaks of {written} GB at batch {args.measure}; a sample adds "
            f"{slope:.1f} MB; computed: {kept:.1f} MB, and {largest:.1f} MB temporarily",
            flush=True,
        )
    return 0


def _measured(config: Config, batch: int, recompute: bool) -> int:
    """Peak use in bytes of MindSpore's memory pool during three steps."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "config.yaml")
        values = {**config.as_dict(), "batch_size": batch, "recompute": recompute, "aux_loss_weight": 0.0}
        load_config(overrides=values).save(path)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.training_memory", "--config", str(path), ONE],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            env={**os.environ, "MS_DEV_RUNTIME_CONF": "memory_statistics:True"},
        )
    if done.returncode:
        raise UserError(f"a step of batch size {batch} failed: {done.stderr.strip().splitlines()[-1]}")
    return int(re.findall(r"pool total .*? peak used mem:(\d+)M", done.stdout + done.stderr)[-1]) << 20


def _run_steps(config: Config) -> None:
    import numpy as np
    from mindspore import Tensor

    from coupalign.devices import set_up
    from coupalign.loss import PixelContrastiveLoss
    from coupalign.model import build_model
    from coupalign.training.optimizer import make_optimizer
    from coupalign.training.step import Objective, TrainStep

    set_up(config.run)
    model = build_model(config)
    if config.training.recompute:
        model.recompute_blocks()
    objective = Objective(model, PixelContrastiveLoss(), config.losses.aux_loss_weight)
    micro_batch = config.training.batch_size // config.training.accumulation_steps
    optimizer = make_optimizer(config.training, model.trainable_params(), 1000)
    step = TrainStep(
        objective,
        optimizer,
        config.training.max_grad_norm,
        micro_batch,
        config.training.accumulation_steps,
        config.run.precision == "fp16",
        config.training.ema_decay,
    ).set_train()
    random, size = np.random.default_rng(0), config.model.image_size
    words = Tensor(np.ones((micro_batch, config.model.max_tokens), np.int32))
    batch = {
        "image": Tensor(random.standard_normal((micro_batch, 3, size, size)).astype(np.float32)),
        "token_ids": words,
        "token_mask": words,
        "mask": Tensor((random.random((micro_batch, size, size)) > 0.5).astype(np.float32)),
    }
    for number in range(3):
        step.update(
            [batch] * config.training.accumulation_steps, 0, number, range(0, config.training.batch_size, micro_batch)
        )[0][0].asnumpy()


if __name__ == "__main__":
    raise SystemExit(main())
