"""Convert downloaded Swin and BERT checkpoints into one checkpoint to start a training from.

Swin may have the parameter names of the official code, timm or Hugging Face; BERT has Hugging Face's. Files in .pth,
.bin and .safetensors are read without PyTorch, and no code in them is run. A training starts from the result with
--init_checkpoint. <output>.report.txt lists what became of every tensor.

    python convert_weights.py --swin swin_base_patch4_window7_224_22k.pth --bert model.safetensors --output start.ckpt

With --checkpoint instead, a checkpoint of CoupAlign is adapted to another image_size or swin_window_size:

    python convert_weights.py --checkpoint runs/refcoco/best.ckpt --image_size 480 --output start-480.ckpt
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from coupalign.checks import check_exists
from coupalign.cli import command, parse_arguments
from coupalign.files import check_writable


class _Once(argparse.Action):
    """An option that may be given once; argparse would silently keep the last of two."""

    def __call__(self, parser, namespace, values, option_string=None):
        if getattr(namespace, self.dest) is not None:
            parser.error(f"{option_string} is given twice ({getattr(namespace, self.dest)}, {values}): give one file")
        setattr(namespace, self.dest, values)


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--swin", action=_Once, metavar="FILE", help="Swin, .pth or .safetensors")
    parser.add_argument("--bert", action=_Once, metavar="FILE", help="BERT, .bin or .safetensors")
    parser.add_argument(
        "--checkpoint", action=_Once, metavar="FILE", help="CoupAlign trained at another size (.ckpt), instead of both"
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="checkpoint to write (.ckpt)")


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, args = parse_arguments(__doc__, argv, _add, keys=("model",))
    output = check_writable(args.output)
    for option in ("swin", "bert", "checkpoint"):
        if getattr(args, option):
            check_exists(getattr(args, option), f"--{option}")
    from coupalign.checkpoints.convert import convert

    print(convert(config, output, swin=args.swin, bert=args.bert, checkpoint=args.checkpoint).summary())
    return 0
