"""Score the output of the C++ program in ascend310_infer/ for the files of preprocess.py.

Prints the table of eval.py and writes <split>.json and <split>.csv; use the configuration of preprocess.py.

    python postprocess.py --config runs/refcoco/config.yaml --split val --result_path result_Files
"""

from __future__ import annotations

from coupalign.checks import check_data, check_exists
from coupalign.cli import DATA_KEYS, PROTOCOL_KEYS, Argv, command, option, parse_arguments
from coupalign.files import check_directory

OPTIONS = [
    option("--result_path DIR", "output of the program", default="result_Files"),
    option("--split NAME", "split that preprocess.py wrote", default="val"),
    option("--output DIR", "directory of the results", default="postprocess_Result"),
    option("--counts FILE", "score the samples in parts: keeps their counts until all samples are there (.npy)"),
]


@command
def main(argv: Argv = None) -> int:
    config, args = parse_arguments(__doc__, argv, OPTIONS, keys=[*DATA_KEYS, *PROTOCOL_KEYS, "seed", "model"])
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
