"""Convert Swin and BERT checkpoints, as they are downloaded, into one checkpoint to start from.

Swin is read in the names of the official code, timm or Hugging Face, BERT in Hugging Face's; .pth, .bin and
.safetensors are read without PyTorch, and nothing in them is run. A training starts from the result with
--init_checkpoint. What became of every tensor is written to <output>.report.txt.

    python convert_weights.py --swin swin_base_patch4_window7_224_22k.pth --bert model.safetensors --output start.ckpt

With --checkpoint instead, a whole checkpoint of CoupAlign is brought to another image_size or swin_window_size:

    python convert_weights.py --checkpoint runs/refcoco/best.ckpt --image_size 480 --output start-480.ckpt
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from coupalign.cli import command, parse_arguments


class _Once(argparse.Action):
    """An option that may be given once: the last of two would silently win."""

    def __call__(self, parser, namespace, values, option_string=None):
        if getattr(namespace, self.dest) is not None:
            parser.error(f"{option_string} is given twice ({getattr(namespace, self.dest)}, {values}): give one file")
        setattr(namespace, self.dest, values)


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--swin", action=_Once, metavar="FILE", help="Swin, .pth or .safetensors")
    parser.add_argument("--bert", action=_Once, metavar="FILE", help="BERT, .bin or .safetensors")
    parser.add_argument(
        "--checkpoint", action=_Once, metavar="FILE", help="instead of both: CoupAlign trained at another size (.ckpt)"
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="checkpoint to write (.ckpt)")


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, args = parse_arguments(__doc__, argv, _add)
    # Imported here because MindSpore takes seconds that --help and a mistyped option need not wait.
    from coupalign.checkpoints.convert import convert

    print(convert(config, args.output, swin=args.swin, bert=args.bert, checkpoint=args.checkpoint).summary())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
