"""Evaluate a checkpoint on the splits of eval_splits, and print and keep the results.

For each split a table is printed, and <split>.json (metrics, protocol, configuration) and <split>.csv (a row a
sample) are written.

    python eval.py --checkpoint runs/refcoco/best.ckpt --eval_splits val,testA
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from coupalign.cli import command, parse_arguments
from coupalign.files import make_directory


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="model to evaluate (.ckpt)")
    parser.add_argument("--output", metavar="DIR", help="directory of the results (default: <output_dir>/eval)")


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, args = parse_arguments(__doc__, argv, _add)
    # Imported here because MindSpore takes seconds that --help and a mistyped option need not wait.
    from coupalign import devices
    from coupalign.context import set_up
    from coupalign.evaluation.evaluate import evaluate

    set_up(config)
    results = evaluate(config, args.checkpoint, config.evaluation.eval_splits, progress=devices.rank() == 0)
    output = make_directory(args.output or Path(config.run.output_dir, "eval"))
    for result in results:
        if devices.rank() == 0:
            result.save(output)
            print(result.table(), flush=True)
    if devices.rank() == 0:
        print(f"results written to {output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
