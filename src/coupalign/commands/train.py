"""Train CoupAlign on a data set made by prepare_data.py.

Writes into output_dir:
    config.yaml
    steps.csv (losses of each step), curve.csv (a row per epoch), tensorboard/ (or what `tracker` says), curve.png
    last.ckpt and the step_<number>.ckpt before it, which --resume continues
    best.ckpt, the weights with the highest oIoU on val_split

After SIGTERM or Ctrl-C the training finishes the step, saves, and exits with 143 or 130.

    python train.py --config configs/refshapes_tiny.yaml --output_dir runs/tiny
    python train.py --config configs/refshapes_tiny.yaml --output_dir runs/tiny --resume auto
"""

from __future__ import annotations

from coupalign.cli import Argv, command, option, parse_arguments
from coupalign.errors import UserError
from coupalign.signals import take_signals

OPTIONS = [option("--check DEVICES", "only check configuration, data and paths, for so many devices", type=int)]


@command
def main(argv: Argv = None) -> int:
    take_signals()  # before NumPy starts threads
    from coupalign.checks import check_training, rank_count

    config, args = parse_arguments(__doc__, argv, OPTIONS)
    if args.check is not None and args.check < 1:
        raise UserError(f"--check is {args.check}: give at least 1 device")
    check_training(config, args.check or rank_count())
    if args.check:
        return 0
    # MindSpore takes seconds to import, which --help and errors need not wait for; so in all commands.
    from coupalign import devices
    from coupalign.training import train
    from coupalign.visual.curves import save_curves

    devices.set_up(config.run)
    directory = train(config)
    if devices.rank() == 0:
        save_curves([directory], directory / "curve.png")
        print(f"trained model written to {directory}")
    return 0
