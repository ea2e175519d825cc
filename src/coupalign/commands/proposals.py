"""Measure whether a model's alignments align: proposals that differ, weights that choose, attention that attends.

It prints a table and writes alignment_<split>.json with the same measures, explained in docs/sma.md.

    python proposals.py --checkpoint runs/refcoco/best.ckpt --data_dir data/refcoco --split val --eval_limit 256
"""

from __future__ import annotations

from pathlib import Path

from coupalign.checks import check_data, check_model
from coupalign.cli import CHECKPOINT, DATA_KEYS, DEVICE_KEYS, PROTOCOL_KEYS, Argv, command, option, parse_arguments
from coupalign.files import check_directory

KEYS = [*DEVICE_KEYS, "output_dir", *DATA_KEYS, "eval_batch_size", *PROTOCOL_KEYS, "model"]
OPTIONS = [
    CHECKPOINT,
    option("--split NAME", "split to measure", default="val"),
    option("--output DIR", "directory of the JSON file (default: <output_dir>/eval)"),
]


@command
def main(argv: Argv = None) -> int:
    config, args = parse_arguments(__doc__, argv, OPTIONS, keys=KEYS)
    output = check_directory(args.output or Path(config.run.output_dir, "eval"))
    check_model(config, args.checkpoint)
    check_data(config, [args.split])
    from coupalign import devices
    from coupalign.evaluation.alignment import measure, save

    devices.set_up(config.run)
    measures, about = measure(config, args.checkpoint, args.split)
    print(f"{config.data.name} {args.split}, {measures.samples:,} samples\n{measures.table()}")
    save(output / f"alignment_{args.split}.json", measures, about)
    print(f"results written to {output}")
    return 0
