"""Segment the objects that expressions refer to in images of your own.

For each image and expression it writes a mask and the mask drawn on the image, as .mask.png and .overlay.png, figures
and run lengths as .json, and prints a line of JSON that names the files. predictions.json holds all of them in COCO's
format. The same command continues where it was interrupted. An image that cannot be read is reported and skipped; the
exit code is then 2.

    python predict.py --checkpoint runs/refcoco/best.ckpt --image street.jpg --expression "man in the red shirt"
    python predict.py --checkpoint runs/refcoco/best.ckpt --image photos --expressions list.jsonl --output masks

A line of list.jsonl is {"image": NAME, "expression": TEXT}; list.csv has columns of these names. Images are relative to
the directory --image, or to the file. Without images, every expression is evaluated on every --image.
"""

from __future__ import annotations

from coupalign.checks import check_exists, check_model
from coupalign.cli import CHECKPOINT, MODEL_KEYS, Argv, command, option, parse_arguments
from coupalign.errors import UserError
from coupalign.files import check_directory

OPTIONS = [
    CHECKPOINT,
    option("--image PATH", "image or directory; may be given several times", action="append"),
    option("--expression TEXT", "what to find; may be given several times", action="append"),
    option("--expressions FILE", "JSON Lines (.jsonl) or CSV with expressions and images, instead of --expression"),
    option("--output DIR", "directory of the files", default="predictions"),
    option("--probability", "also write probability maps, float32, as .probability.npy"),
]


@command
def main(argv: Argv = None) -> int:
    config, args = parse_arguments(__doc__, argv, OPTIONS, keys=(*MODEL_KEYS, "eval_batch_size"))
    if bool(args.expression) == bool(args.expressions):
        raise UserError("pass what to find, either as --expression or as --expressions FILE")
    output = check_directory(args.output)
    images, expressions = args.image or [], args.expression or []
    for image in images:
        check_exists(image, "--image")
    check_model(config, args.checkpoint)
    from coupalign.inference.predict import predict
    from coupalign.inference.request_file import find_requests

    requests = find_requests(images, expressions, args.expressions)
    return 2 if predict(config, args.checkpoint, requests, output, args.probability) else 0
