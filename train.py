"""Train CoupAlign on a data set made by prepare_data.py.

Writes into output_dir: config.yaml, steps.csv (every step's losses), curve.csv (a row an epoch), last.ckpt, and
best.ckpt, the one with the highest oIoU on val_split.

    python train.py --config configs/refshapes_tiny.yaml --output_dir runs/tiny
"""
from __future__ import annotations

from collections.abc import Sequence

from src.cli import command, parse_arguments


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, _ = parse_arguments(__doc__, argv)
    # Imported here because MindSpore takes seconds that --help and a mistyped option need not wait.
    from src.context import set_up
    from src.training import train

    set_up(config)
    print(f"trained model written to {train(config)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
