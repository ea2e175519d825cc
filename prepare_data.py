"""Turns a data set on disk into MindRecord files, or makes RefShapes (synthetic) first.

python prepare_data.py --dataset refshapes --output data/refshapes
python prepare_data.py --dataset refcoco --split_by unc --annotations DIR --images DIR --output data/refcoco
python prepare_data.py --dataset mine --annotations mine.jsonl --images DIR --output data/mine
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from coupalign.cli import command, parse_arguments


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", metavar="DIR", type=_path, help="where the files go (default: data_dir)")
    parser.add_argument(
        "--annotations",
        metavar="PATH",
        type=_path,
        help="directory of refs(<split_by>).p and instances.json, or a .jsonl file",
    )
    parser.add_argument(
        "--images", metavar="DIR", type=_path, help="directory of the images (default for a .jsonl file: its own)"
    )
    parser.add_argument("--split_by", metavar="TEXT", help="unc, umd, google or berkeley (default: the data set's own)")
    parser.add_argument(
        "--expressions",
        metavar="INT",
        type=int,
        default=20000,
        help="of RefShapes' train split; each other split has a tenth (default: 20000)",
    )
    parser.add_argument(
        "--on_error",
        metavar="stop|skip",
        choices=("stop", "skip"),
        default="stop",
        help="stop at what cannot be used, or leave it out and list it in skipped.jsonl (default: stop)",
    )
    parser.add_argument(
        "--workers", metavar="INT", type=int, default=os.cpu_count(), help="processes (default: one a processor)"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="only say what is there, what is missing, and how the counts compare with the published",
    )


def _path(text: str) -> Path:
    return Path(text).expanduser()


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, args = parse_arguments(__doc__, argv, _add)
    from coupalign.data.check import check
    from coupalign.data.prepare import Source, prepare  # brings in MindSpore

    output = args.output or Path(config.data.data_dir).expanduser()
    source = Source(args.annotations, args.images, args.split_by, args.expressions, args.on_error == "skip")
    if args.check:
        report, usable = check(config, output, source)
        print(report)
        return 0 if usable else 1
    prepared = prepare(config, output, source, max(args.workers, 1))
    print(prepared.table())
    print(f"{output}: {'written' if prepared.written else 'complete already, nothing to do'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
