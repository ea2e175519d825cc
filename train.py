"""Train CoupAlign on a data set made by prepare_data.py.

Writes into output_dir: config.yaml; steps.csv (every step's losses), curve.csv (a row an epoch) and log.jsonl (both, for
machines); tensorboard/ and, at the end, curve.png; last.ckpt and the step_<number>.ckpt before it, from which --resume
goes on; and best.ckpt, the weights with the highest oIoU on val_split.
After SIGTERM or Ctrl-C it finishes the step, saves, and exits with 143 or 130.

    python train.py --config configs/refshapes_tiny.yaml --output_dir runs/tiny
    python train.py --config configs/refshapes_tiny.yaml --output_dir runs/tiny --resume auto
"""

from __future__ import annotations

from collections.abc import Sequence

from coupalign.cli import command, parse_arguments
from coupalign.signals import take_signals


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, _ = parse_arguments(__doc__, argv)
    take_signals()
    # Imported here because MindSpore takes seconds that --help and a mistyped option need not wait.
    from coupalign import devices
    from coupalign.context import set_up
    from coupalign.training import train
    from coupalign.visual.curves import save_curves

    set_up(config)
    directory = train(config)
    if devices.rank() == 0:
        save_curves([directory], directory / "curve.png")
        print(f"trained model written to {directory}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
