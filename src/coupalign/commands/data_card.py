"""Describe a prepared data set on an HTML page: counts, lengths, areas, words and sample images.

python data_card.py --dataset refcoco --data_dir data/refcoco
"""

from __future__ import annotations

from pathlib import Path

from coupalign.checks import check_data
from coupalign.cli import DATA_KEYS, Argv, command, option, parse_arguments
from coupalign.files import check_writable

OPTIONS = [
    option("--output FILE", "the page (default: <data_dir>/card.html)"),
    option("--samples INT", "referents shown per split", default=12),
]


@command
def main(argv: Argv = None) -> int:
    config, args = parse_arguments(__doc__, argv, OPTIONS, keys=[*DATA_KEYS, "seed", "image_size", "max_tokens"])
    path = check_writable(args.output or Path(config.data.data_dir, "card.html"))
    check_data(config)
    from coupalign.visual.data_card import write_card

    write_card(config, path, max(args.samples, 0))
    print(path)
    return 0
