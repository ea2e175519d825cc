"""Write the samples of a split as files, for the C++ program of ascend310_infer/.

python preprocess.py --config runs/refcoco/config.yaml --mindir_path coupalign.mindir --split val
"""

from __future__ import annotations

from coupalign.checks import check_data, check_exists
from coupalign.cli import DATA_KEYS, PROTOCOL_KEYS, Argv, command, option, parse_arguments
from coupalign.files import check_directory

OPTIONS = [
    option("--mindir_path FILE", "graph written by export.py", required=True),
    option("--split NAME", "split to write", default="val"),
    option("--output DIR", "directory of the files", default="preprocess_Result"),
    option("--offset INT", "number of the first sample", default=0),
    option("--samples INT", "samples at most; 0 is all", default=0),
]


@command
def main(argv: Argv = None) -> int:
    config, args = parse_arguments(__doc__, argv, OPTIONS, keys=[*DATA_KEYS, *PROTOCOL_KEYS, "seed", "model"])
    output, mindir = check_directory(args.output), check_exists(args.mindir_path, "--mindir_path")
    check_data(config, [args.split])
    from coupalign.inference.deployment import write_inputs

    samples = write_inputs(config, args.split, mindir, output, args.offset, args.samples)
    print(f"{samples} samples of {args.split} written to {output}")
    return 0
