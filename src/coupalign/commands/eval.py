"""Evaluate a checkpoint on the splits of eval_splits.

For each split it prints a table and writes <split>.json (metrics, protocol, configuration) and <split>.csv (a row per
sample); of several data sets, into a directory per data set.

    python eval.py --checkpoint runs/refcoco/best.ckpt --eval_splits val,testA
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

from coupalign.checks import check_model, rank_count
from coupalign.cli import CHECKPOINT, DATA_KEYS, DEVICE_KEYS, PROTOCOL_KEYS, Argv, command, option, parse_arguments
from coupalign.data.prepared import check_split, evaluated_splits
from coupalign.files import check_directory

KEYS = [*DEVICE_KEYS, "output_dir", *DATA_KEYS, "eval_splits", "eval_batch_size", *PROTOCOL_KEYS, "model"]
OPTIONS = [
    CHECKPOINT,
    option("--output DIR", "directory of the results (default: <output_dir>/eval)"),
    option("--check", "only check configuration, data and paths"),
]


@command
def main(argv: Argv = None) -> int:
    config, args = parse_arguments(__doc__, argv, OPTIONS, keys=KEYS)
    if not args.check:
        rank_count()  # refuses ranks that would each evaluate alone
    output = check_directory(args.output or Path(config.run.output_dir, "eval"))
    check_model(config, args.checkpoint)
    splits = evaluated_splits(config, config.evaluation.eval_splits)
    for each, split in splits:
        check_split(each, split)
    if args.check:
        return 0
    from coupalign import devices
    from coupalign.evaluation.evaluate import evaluate

    devices.set_up(config.run)
    for result in evaluate(config, args.checkpoint, config.evaluation.eval_splits, progress=devices.rank() == 0):
        if devices.rank() == 0:
            result.save(output / result.config.data.name if len(config.data.names) > 1 else output)
            print(result.table(), flush=True)
    if devices.rank() == 0:
        done = {(each.data.name, split) for each, split in splits}
        for name, split in product(config.data.names, config.evaluation.eval_splits):
            if (name, split) not in done:
                print(f"{name} has no split {split}")
        print(f"results written to {output}")
    return 0
