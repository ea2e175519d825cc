"""Segment what an expression names in an image of your own.

Writes a mask and a picture of it on the image for each expression, as
<image>-<number>-<expression>.mask.png and .overlay.png, and prints a line of JSON for each.

    python predict.py --checkpoint runs/refcoco/best.ckpt --image street.jpg --expression "man in the red shirt"
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from coupalign.cli import command, parse_arguments


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="trained model (.ckpt)")
    parser.add_argument("--image", required=True, metavar="FILE", help="image to segment")
    parser.add_argument(
        "--expression", required=True, action="append", metavar="TEXT", help="what to find; may be given several times"
    )
    parser.add_argument(
        "--output",
        default="predictions",
        metavar="DIR",
        help="directory of the pictures, where those of the same names are replaced (default: predictions)",
    )


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, args = parse_arguments(__doc__, argv, _add)
    # Imported here because MindSpore takes seconds that --help and a mistyped option need not wait.
    from coupalign.context import set_up
    from coupalign.inference.predict import predict

    set_up(config)
    predict(config, args.checkpoint, args.image, args.expression, args.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
