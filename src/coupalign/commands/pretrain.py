"""Pretrain a small model on scenes of RefShapes, to start a training from.

It takes the place of the Swin and BERT weights that the paper starts from. The model learns the shape, colour, size,
pattern and centre of the object at each pixel, the part of the object in the description (group, anchor, rank), and the
mask of everything that the description fits. The scenes are in no split of the data set; num_workers processes make
them as needed, and each is used once. The weights are written every checkpoint_every steps. A training, or a further
pretraining, starts from them with --init_checkpoint.

    python pretrain.py --config configs/refshapes_best.yaml --image_size 128 --swin_window_size 8 --output pretrained.ckpt
"""

from __future__ import annotations

import logging

from coupalign.checks import check_batch_size, check_tracker, check_vocabulary, check_warmup, rank_count
from coupalign.cli import DEVICE_KEYS, Argv, command, option, parse_arguments
from coupalign.config import config_keys, load_config
from coupalign.errors import UserError
from coupalign.files import check_writable, find_checkpoint

KEYS = (*DEVICE_KEYS, "model", "losses") + tuple(
    """vocab_file num_workers batch_size accumulation_steps learning_rate end_learning_rate decay_epochs decay_power
    warmup_steps weight_decay frozen learning_rate_scales weight_decays ema_decay recompute max_grad_norm
    max_skipped_steps init_checkpoint init_except checkpoint_every tracker""".split()
)
OPTIONS = [
    option("--scenes INT", "number of scenes", default=48000),
    option("--output FILE", "checkpoint to write (.ckpt)", required=True),
]


@command
def main(argv: Argv = None) -> int:
    config, args = parse_arguments(__doc__, argv, OPTIONS, keys=KEYS)
    output = check_writable(args.output)
    check_batch_size(config, rank_count())
    check_vocabulary(config)
    check_tracker(config.training)
    if config.training.init_checkpoint:
        find_checkpoint(config.training.init_checkpoint)
    if args.scenes < config.training.batch_size:
        raise UserError(f"--scenes {args.scenes} is less than batch_size {config.training.batch_size}: raise --scenes")
    check_warmup(config.training, max(1, args.scenes // config.training.batch_size // config.training.decay_epochs))
    given, defaults = config.as_dict(), load_config().as_dict()
    unused = [name for name in config_keys() if given[name] != defaults[name] and name not in KEYS]
    unused = [name for name in unused if config_keys()[name].section not in KEYS]
    if unused:
        logging.getLogger("coupalign").warning(
            "%s: pretraining does not use %s", " ".join(args.config or []), ", ".join(unused)
        )
    from coupalign import devices
    from coupalign.training.pretraining import pretrain

    devices.set_up(config.run)
    print(pretrain(config, args.scenes, output).line())
    print(f"pretrained model written to {output}")
    return 0
