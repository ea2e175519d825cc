"""Pretrain a small model on scenes of RefShapes, to start a training from.

The paper starts from a Swin and a BERT that have seen millions of pictures and sentences. A small model for RefShapes
has nothing to start from, so it first learns, on scenes that are in no split of the data set, what is there (shape,
colour, size, pattern and centre, pixel by pixel), what part it has in a description (whether it is of the group that is
spoken of, what places are told from, or which rank it has), and to find all that the description fits. Scenes are made
as they are needed, by num_workers processes, and each is seen once. A training starts from the result with
--init_checkpoint, and so does a further pretraining. The weights so far are written every checkpoint_every steps, so
that a pretraining that is stopped leaves them to start another from.

    python pretrain.py --config configs/refshapes_best.yaml --image_size 128 --swin_window_size 8 --output pretrained.ckpt
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from coupalign.cli import command, parse_arguments


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scenes", type=int, default=48000, metavar="INT", help="scenes to see (default: 48000)")
    parser.add_argument("--output", required=True, metavar="FILE", help="checkpoint to write (.ckpt)")


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, args = parse_arguments(__doc__, argv, _add)
    # Imported here because MindSpore takes seconds that --help and a mistyped option need not wait.
    from coupalign.context import set_up
    from coupalign.training.pretraining import pretrain

    set_up(config)
    print(pretrain(config, args.scenes, Path(args.output)).line())
    print(f"pretrained model written to {args.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
