"""Export a checkpoint as MindIR, and check the file against the model.

The graph takes a prepared image, token_ids and token_mask, and returns the probability of each pixel. The .json file
beside it describes shapes, mean and deviation, vocabulary, threshold and versions for the program that runs it.

    python export.py --checkpoint runs/refcoco/best.ckpt --file_name coupalign.mindir
"""

from __future__ import annotations

from pathlib import Path

from coupalign.checks import check_model
from coupalign.cli import CHECKPOINT, MODEL_KEYS, Argv, command, option, parse_arguments
from coupalign.errors import UserError
from coupalign.files import check_writable

OPTIONS = [
    CHECKPOINT,
    option("--file_name FILE", "file to write (default: the checkpoint's name, .mindir)"),
    option("--export_batch_size INT", "batch size of the graph, which is fixed", default=1),
    option("--export_for CPU|Ascend", "where the file will run", default="CPU"),
    option("--export_raw_image", "the graph takes pixels, RGB (B, S, S, 3) uint8, and normalises them itself"),
]


@command
def main(argv: Argv = None) -> int:
    config, args = parse_arguments(__doc__, argv, OPTIONS, keys=MODEL_KEYS)
    batch_size = args.export_batch_size
    if batch_size < 1:
        raise UserError(f"--export_batch_size is {batch_size}: give at least 1")
    path = Path(args.file_name or Path(args.checkpoint).with_suffix(".mindir")).expanduser()
    if path.suffix != ".mindir":
        raise UserError(f"--file_name {path}: expected a name that ends in .mindir")
    check_writable(path)
    check_model(config, args.checkpoint)
    from coupalign import devices
    from coupalign.inference.export import export

    devices.set_up(config.run)
    difference = export(config, args.checkpoint, path, batch_size, args.export_raw_image, args.export_for)
    print(f"{path}: batch {batch_size}, outputs within {difference:.1e} of the model's")
    return 0
