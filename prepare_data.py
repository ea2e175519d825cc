"""Turns a data set on disk into MindRecord files, or makes RefShapes (synthetic) first.

python prepare_data.py --dataset refshapes --output data/refshapes
python prepare_data.py --dataset refcoco --split_by unc --annotations DIR --images DIR --output data/refcoco
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from src.cli import command, parse_arguments


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", metavar="DIR", type=Path, help="where the files go (default: data_dir)")
    parser.add_argument("--annotations", metavar="DIR", type=Path, help="directory of refs(<split_by>).p and "
                                                                        "instances.json")
    parser.add_argument("--images", metavar="DIR", type=Path, help="directory of the images")
    parser.add_argument("--split_by", metavar="TEXT", help="unc, umd, google or berkeley (default: the data set's own)")
    parser.add_argument("--expressions", metavar="INT", type=int, default=20000,
                        help="of RefShapes' train split; each other split has a tenth (default: 20000)")
    parser.add_argument("--workers", metavar="INT", type=int, default=2,
                        help="processes that make RefShapes (default: 2)")
    parser.add_argument("--check", action="store_true", help="only check, and print the counts")


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, args = parse_arguments(__doc__, argv, _add)
    from src.data.prepare import prepare  # brings in MindSpore

    output = args.output or Path(config.data_dir)
    prepared = prepare(config, output.expanduser(), args.annotations, args.images, args.split_by, args.expressions,
                       args.workers, args.check)
    print(prepared.table())
    if not args.check:
        print(f"{output}: {'written' if prepared.written else 'complete already, nothing to do'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
