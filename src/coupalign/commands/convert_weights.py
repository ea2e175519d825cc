"""Convert downloaded Swin and BERT checkpoints into one checkpoint to start a training from.

Swin may have the parameter names of the official code, timm or Hugging Face; BERT has Hugging Face's. Files in .pth and
.bin need PyTorch (pip install torch), .safetensors files do not; no code in them is run. A training starts from the
result with --init_checkpoint. <output>.report.txt lists what became of every tensor.

    python convert_weights.py --swin swin_base_patch4_window7_224_22k.pth --bert model.safetensors --output start.ckpt

With --checkpoint instead, a checkpoint of CoupAlign is adapted to another image_size or swin_window_size, or written in
the other format, safetensors or MindSpore's, or at half the size:

    python convert_weights.py --checkpoint runs/refcoco/best.ckpt --image_size 480 --output start-480.ckpt
    python convert_weights.py --checkpoint runs/refcoco/best.ckpt --output best.safetensors
    python convert_weights.py --checkpoint runs/refcoco/best.ckpt --dtype float16 --output model.safetensors
"""

from __future__ import annotations

from coupalign.checks import check_exists
from coupalign.cli import Argv, command, option, parse_arguments
from coupalign.files import check_writable

OPTIONS = [
    option("--swin FILE", "Swin, .pth or .safetensors"),
    option("--bert FILE", "BERT, .bin or .safetensors"),
    option("--checkpoint FILE", "CoupAlign, .ckpt or .safetensors, instead of both"),
    option("--output FILE", "checkpoint to write, .ckpt or .safetensors", required=True),
    option("--dtype float32|float16", "of the written weights; batch-norm statistics stay float32", default="float32"),
]


@command
def main(argv: Argv = None) -> int:
    config, args = parse_arguments(__doc__, argv, OPTIONS, keys=["model"])
    output = check_writable(args.output)
    for name in ("swin", "bert", "checkpoint"):
        if getattr(args, name):
            check_exists(getattr(args, name), f"--{name}")
    from coupalign.checkpoints.convert import convert

    sources = {"swin": args.swin, "bert": args.bert, "checkpoint": args.checkpoint}
    print(convert(config, output, **sources, dtype=args.dtype).summary())
    return 0
