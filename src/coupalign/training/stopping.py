"""Graceful shutdown after SIGTERM or Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from coupalign import devices


class Stopped(SystemExit):
    """Raised when a training stopped on request. ``code`` is 128 + the number of the signal, as in shells."""


class StopRequest:
    """Context manager that records the first SIGTERM or SIGINT instead of ending the process.

    A second signal ends the process at once. Python handles signals in the main thread only, so in another thread
    nothing is recorded. With several ranks, a signal to one of them stops all.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._interrupting = False
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous_handlers[number] = signal.signal(number, self._record)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore_handlers()

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Within the block a signal raises Stopped immediately. Use it for work that can be repeated.

        Several ranks must stop at the same place, so with them the next call of ``check`` raises instead.
        """
        self._interrupting = devices.rank_count() == 1
        try:
            self.check()
            yield
        finally:
            self._interrupting = False

    def check(self) -> None:
        """Raises Stopped if any rank received a signal. All ranks must call this at the same places."""
        number = devices.all_reduce_max(self.signal)
        if number:
            self.signal = number
            raise Stopped(128 + number)

    def _record(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        self._restore_handlers()
        if self._interrupting:
            self.check()

    def _restore_handlers(self) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
