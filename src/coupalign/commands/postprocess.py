"""Score the output of the C++ program in ascend310_infer/ for the files of preprocess.py.

Prints the table of eval.py and writes <split>.json and <split>.csv; use the configuration of preprocess.py.

    python postprocess.py --config runs/refcoco/config.yaml --split val --result_path result_Files
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from coupalign.checks import check_data, check_exists
from coupalign.cli import DATA_KEYS, PROTOCOL_KEYS, command, parse_arguments
from coupalign.files import check_directory


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--result_path", default="result_Files", metavar="DIR", help="default: result_Files")
    parser.add_argument("--split", default="val", metavar="NAME", help="default: val")
    parser.add_argument("--output", default="postprocess_Result", metavar="DIR", help="default: postprocess_Result")
    parser.add_argument(
        "--counts",
        metavar="FILE",
        help="score the samples in parts: keeps their counts until all samples are there (.npy)",
    )


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, args = parse_arguments(__doc__, argv, _add, keys=(*DATA_KEYS, *PROTOCOL_KEYS, "seed", "model"))
    output, results = check_directory(args.output), check_exists(args.result_path, "--result_path")
    check_data(config, [args.split])
    from coupalign.inference.deployment import score

    result = score(config, args.split, results, args.counts)
    if result is None:
        print(f"{results} scored; other samples are to follow")
        return 0
    result.save(output)
    print(result.table())
    return 0
