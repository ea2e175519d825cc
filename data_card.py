"""Show what is in a prepared data set: counts, lengths, areas, words and sample pictures, on one page of HTML.

python data_card.py --dataset refcoco --data_dir data/refcoco
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from coupalign.cli import command, parse_arguments


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", metavar="FILE", help="the page (default: <data_dir>/card.html)")
    parser.add_argument(
        "--samples", metavar="INT", type=int, default=12, help="referents shown of each split (default: 12)"
    )


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, args = parse_arguments(__doc__, argv, _add)
    from coupalign.visual.data_card import write_card  # brings in MindSpore

    path = Path(args.output or Path(config.data.data_dir, "card.html")).expanduser()
    write_card(config, path, max(args.samples, 0))
    print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
