"""Earlier home of ``devices.set_up``, until its callers have changed."""

from __future__ import annotations

from coupalign import devices
from coupalign.config import Config


def set_up(config: Config) -> None:
    devices.set_up(config.run)
