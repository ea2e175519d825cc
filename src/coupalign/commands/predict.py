"""Segment the object that an expression refers to in images of your own.

For each image and expression it writes a mask and the mask drawn on the image, as .mask.png and .overlay.png, and
prints a line of JSON that names the files.

    python predict.py --checkpoint runs/refcoco/best.ckpt --image street.jpg --expression "man in the red shirt"
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from coupalign.checks import check_exists, check_model
from coupalign.cli import MODEL_KEYS, command, parse_arguments
from coupalign.files import check_directory


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="trained model (.ckpt)")
    parser.add_argument(
        "--image",
        required=True,
        action="append",
        metavar="PATH",
        help="image, or directory of images; may be given several times",
    )
    parser.add_argument(
        "--expression", required=True, action="append", metavar="TEXT", help="what to find; may be given several times"
    )
    parser.add_argument(
        "--output",
        default="predictions",
        metavar="DIR",
        help="directory of the files; the same image and expression replace their files (default: predictions)",
    )


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, args = parse_arguments(__doc__, argv, _add, keys=MODEL_KEYS)
    output = check_directory(args.output)
    for image in args.image:
        check_exists(image, "--image")
    check_model(config, args.checkpoint)
    from coupalign.inference.predict import predict

    return 2 if predict(config, args.checkpoint, args.image, args.expression, output) else 0
