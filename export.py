"""Export a checkpoint as MindIR, and check the file against the model.

The graph takes a prepared image, token_ids and token_mask, and gives the probability of every pixel. A .json beside
it says what a program has to know that runs it: shapes, mean and deviation, vocabulary, threshold, versions.

    python export.py --checkpoint runs/refcoco/best.ckpt --file_name coupalign.mindir
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from coupalign.cli import command, parse_arguments
from coupalign.errors import UserError


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="trained model (.ckpt)")
    parser.add_argument("--file_name", metavar="FILE", help="file to write (default: the checkpoint's name, .mindir)")
    parser.add_argument(
        "--export_batch_size",
        type=int,
        default=1,
        metavar="INT",
        help="images the graph takes at a time, a fixed number (default: 1)",
    )
    parser.add_argument(
        "--export_for",
        choices=("CPU", "Ascend"),
        default="CPU",
        help="where the file will run; on a CPU, MindSpore Lite needs layer norms and GELU written out (default: CPU)",
    )
    parser.add_argument(
        "--export_raw_image",
        action="store_true",
        help="the graph takes pixels, RGB (B, S, S, 3) uint8, and normalises them itself",
    )
    parser.add_argument(
        "--export_proposals",
        action="store_true",
        help="the graph also gives the N masks Y_N, as logits, and their weights Q_w",
    )


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, args = parse_arguments(__doc__, argv, _add)
    if args.export_batch_size < 1:
        raise UserError(f"--export_batch_size is {args.export_batch_size}: give at least 1")
    file_name = Path(args.file_name or Path(args.checkpoint).with_suffix(".mindir"))
    if file_name.suffix != ".mindir":
        raise UserError(f"--file_name {file_name} does not end in .mindir: change its ending")
    # Imported here because MindSpore takes seconds that --help and a mistyped option need not wait.
    from coupalign.context import set_up
    from coupalign.inference.export import export

    set_up(config)
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


if __name__ == "__main__":
    raise SystemExit(main())
