"""Export a checkpoint as MindIR, and check the file against the model.

The graph takes a prepared image, token_ids and token_mask, and returns the probability of each pixel. The .json file
beside it describes shapes, mean and deviation, vocabulary, threshold and versions for the program that runs it.

    python export.py --checkpoint runs/refcoco/best.ckpt --file_name coupalign.mindir
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from coupalign.checks import check_model
from coupalign.cli import MODEL_KEYS, command, parse_arguments
from coupalign.errors import UserError
from coupalign.files import check_writable


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="trained model (.ckpt)")
    parser.add_argument("--file_name", metavar="FILE", help="file to write (default: the checkpoint's name, .mindir)")
    parser.add_argument(
        "--export_batch_size",
        type=int,
        default=1,
        metavar="INT",
        help="batch size of the graph, which is fixed (default: 1)",
    )
    parser.add_argument(
        "--export_for",
        choices=("CPU", "Ascend"),
        default="CPU",
        help="where the file will run (default: CPU)",
    )
    parser.add_argument(
        "--export_raw_image",
        action="store_true",
        help="the graph takes pixels, RGB (B, S, S, 3) uint8, and normalises them itself",
    )
    parser.add_argument(
        "--export_proposals",
        action="store_true",
        help="the graph also returns the N masks Y_N, as logits, and their weights Q_w",
    )


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, args = parse_arguments(__doc__, argv, _add, keys=MODEL_KEYS)
    if args.export_batch_size < 1:
        raise UserError(f"--export_batch_size is {args.export_batch_size}: give at least 1")
    file_name = Path(args.file_name or Path(args.checkpoint).with_suffix(".mindir")).expanduser()
    if file_name.suffix != ".mindir":
        raise UserError(f"--file_name {file_name}: expected a name that ends in .mindir")
    check_writable(file_name)
    check_model(config, args.checkpoint)
    from coupalign import devices
    from coupalign.inference.export import export

    devices.set_up(config.run)
    difference = export(
        config,
        args.checkpoint,
        file_name,
        args.export_batch_size,
        args.export_raw_image,
        args.export_proposals,
        args.export_for,
    )
    print(f"{file_name}: batch {args.export_batch_size}, outputs within {difference:.1e} of the model's")
    return 0
