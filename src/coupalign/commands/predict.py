"""Segment the object that an expression refers to in images of your own.

For each image and expression it writes a mask and the mask drawn on the image, as .mask.png and .overlay.png, and
prints a line of JSON that names the files. The same image and expression replace their files.

    python predict.py --checkpoint runs/refcoco/best.ckpt --image street.jpg --expression "man in the red shirt"
"""

from __future__ import annotations

from coupalign.checks import check_exists, check_model
from coupalign.cli import CHECKPOINT, MODEL_KEYS, Argv, command, option, parse_arguments
from coupalign.files import check_directory

OPTIONS = [
    CHECKPOINT,
    option("--image PATH", "image or directory; may be given several times", required=True, action="append"),
    option("--expression TEXT", "what to find; may be given several times", required=True, action="append"),
    option("--output DIR", "directory of the files", default="predictions"),
]


@command
def main(argv: Argv = None) -> int:
    config, args = parse_arguments(__doc__, argv, OPTIONS, keys=MODEL_KEYS)
    output = check_directory(args.output)
    for image in args.image:
        check_exists(image, "--image")
    check_model(config, args.checkpoint)
    from coupalign.inference.predict import predict

    return 2 if predict(config, args.checkpoint, args.image, args.expression, output) else 0
