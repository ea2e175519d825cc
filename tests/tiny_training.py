"""train.py with TinyModel, for tests that need processes of their own: python -m tests.tiny_training --config …"""

from __future__ import annotations

from collections.abc import Sequence

import train
from coupalign.cli import command
from coupalign.signals import take_signals


@command
def main(argv: Sequence[str] | None = None) -> int:
    take_signals()  # before MindSpore is imported, as train.py does
    from coupalign.training import trainer
    from tests.tiny_model import TinyModel

    trainer.build_model = lambda _: TinyModel()
    return train.main(argv)


if __name__ == "__main__":
    raise SystemExit(main())
