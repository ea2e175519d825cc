"""Turn a data set on disk into MindRecord files; or make RefShapes (synthetic) first.

python prepare_data.py --dataset refshapes --output data/refshapes
python prepare_data.py --dataset refcoco --split_by unc --annotations DIR --images DIR --output data/refcoco
python prepare_data.py --dataset mine --annotations mine.jsonl --images DIR --output data/mine
"""

from __future__ import annotations

import os
from pathlib import Path

from coupalign.checks import check_exists, check_vocabulary
from coupalign.cli import Argv, command, option, parse_arguments
from coupalign.errors import UserError
from coupalign.files import check_directory, find_file

KEYS = ["dataset", "data_dir", "vocab_file", "max_tokens", "seed"]
OPTIONS = [
    option("--output DIR", "directory of the files (default: data_dir)"),
    option(
        "--annotations PATH",
        "directory of refs(<split_by>).p, or of grefs(<split_by>).json, and instances.json; or a file of JSON Lines",
    ),
    option("--images DIR", "directory of the images (default for JSON Lines: the directory of the file)"),
    option("--split_by TEXT", "unc, umd, google or berkeley (default: the data set's own)"),
    option("--expressions INT", "size of RefShapes' train split; each other split has a tenth", default=20000),
    option("--generalised", "RefShapes: also expressions that name several objects or none, in gRefCOCO's shares"),
    option("--on_error stop|skip", "at unusable input stop, or skip it and list it in skipped.jsonl", default="stop"),
    option("--workers INT", "processes", default=os.cpu_count()),
    option("--check", "only report what exists, what is missing, and how the counts compare with the published ones"),
]


@command
def main(argv: Argv = None) -> int:
    config, args = parse_arguments(__doc__, argv, OPTIONS, keys=KEYS)
    # --check lists what is missing, so it accepts paths that do not exist.
    find = check_exists if not args.check else lambda path, _: find_file(path)
    annotations = find(args.annotations, "--annotations") if args.annotations else None
    images = find(args.images, "--images") if args.images else None
    name, skip, workers = config.data.name, args.on_error == "skip", max(args.workers, 1)
    if name == "refshapes" and (annotations or images or args.split_by):
        raise UserError("RefShapes is made, not read: leave out --annotations, --images and --split_by")
    if name != "refshapes" and args.generalised:
        raise UserError(f"--generalised is for RefShapes, the expressions of {name} are read: leave it out")
    check_vocabulary(config)
    output = Path(args.output or config.data.directory).expanduser()
    if not args.check:
        check_directory(output)
    from coupalign.data.check import check, check_dataset
    from coupalign.data.prepare import Source, prepare, read_dataset
    from coupalign.data.tokenizer import Tokenizer
    from coupalign.refshapes.writer import RefShapesSettings, prepare_refshapes, read_refshapes

    source = Source(annotations, images, args.split_by, skip)
    if args.check:
        report, complete = check_dataset(read_refshapes(output, True)) if name == "refshapes" else check(name, source)
        print(report)
        return 0 if complete else 1
    tokenizer = Tokenizer(config.data.vocab_file, config.model.max_tokens)
    if name == "refshapes":
        settings = RefShapesSettings(args.expressions, config.run.seed, args.generalised)
        prepared = prepare_refshapes(output, settings, tokenizer, workers)
    else:
        prepared = prepare(read_dataset(name, source), name, output, tokenizer, skip, workers)
    print(prepared.table())
    print(f"{output}: {'written' if prepared.written else 'complete already, nothing to do'}")
    return 0
