"""Write the samples of a split as files, for the C++ program of ascend310_infer/.

python preprocess.py --config runs/refcoco/config.yaml --mindir_path coupalign.mindir --split val
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from coupalign.cli import command, parse_arguments


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mindir_path", required=True, metavar="FILE", help="graph of export.py that will be run")
    parser.add_argument("--split", default="val", metavar="NAME", help="default: val")
    parser.add_argument("--output", default="preprocess_Result", metavar="DIR", help="default: preprocess_Result")
    parser.add_argument("--offset", type=int, default=0, metavar="N", help="number of the first sample (default: 0)")
    parser.add_argument("--samples", type=int, default=0, metavar="N", help="samples at most (default: 0, all)")


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, args = parse_arguments(__doc__, argv, _add)
    # Imported here because MindSpore takes seconds that --help and a mistyped option need not wait.
    from coupalign.inference.deployment import write_inputs

    samples = write_inputs(config, args.split, args.mindir_path, args.output, args.offset, args.samples)
    print(f"{samples} samples of {args.split} written to {args.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
