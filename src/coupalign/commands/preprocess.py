"""Write the samples of a split as files, for the C++ program of ascend310_infer/.

python preprocess.py --config runs/refcoco/config.yaml --mindir_path coupalign.mindir --split val
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from coupalign.checks import check_data, check_exists
from coupalign.cli import DATA_KEYS, PROTOCOL_KEYS, command, parse_arguments
from coupalign.files import check_directory


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mindir_path", required=True, metavar="FILE", help="graph written by export.py")
    parser.add_argument("--split", default="val", metavar="NAME", help="default: val")
    parser.add_argument("--output", default="preprocess_Result", metavar="DIR", help="default: preprocess_Result")
    parser.add_argument("--offset", type=int, default=0, metavar="N", help="number of the first sample (default: 0)")
    parser.add_argument("--samples", type=int, default=0, metavar="N", help="samples at most (default: 0, all)")


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, args = parse_arguments(__doc__, argv, _add, keys=(*DATA_KEYS, *PROTOCOL_KEYS, "seed", "model"))
    output, mindir = check_directory(args.output), check_exists(args.mindir_path, "--mindir_path")
    check_data(config, [args.split])
    from coupalign.inference.deployment import write_inputs

    samples = write_inputs(config, args.split, mindir, output, args.offset, args.samples)
    print(f"{samples} samples of {args.split} written to {output}")
    return 0
