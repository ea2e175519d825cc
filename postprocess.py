"""Score what the C++ program of ascend310_infer/ made of the files of preprocess.py.

Prints the table of eval.py and writes <split>.json and <split>.csv; give the configuration that preprocess.py had.

    python postprocess.py --config runs/refcoco/config.yaml --split val --result_path result_Files
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from coupalign.cli import command, parse_arguments
from coupalign.files import make_directory


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
    config, args = parse_arguments(__doc__, argv, _add)
    # Imported here because MindSpore takes seconds that --help and a mistyped option need not wait.
    from coupalign.inference.deployment import score

    result = score(config, args.split, args.result_path, args.counts)
    if result is None:
        print(f"{args.result_path} scored; other samples are to follow")
        return 0
    result.save(make_directory(args.output))
    print(result.table())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
