"""SIGTERM and Ctrl-C as a wish to stop, granted where nothing is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from coupalign import devices


class Stopped(SystemExit):
    """A training that was asked to stop, and saved its state. ``code`` is 128 + the signal's number, as in shells."""


class StopRequest:
    """Whether the process was asked to stop; a context manager that listens while it is entered.

    The first SIGTERM or SIGINT is noted; a second one ends the process as if nobody had listened. Outside the main
    thread, where Python takes no signals, it never notes any. A request to one of several ranks is one to all.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._interrupting = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Within the block, a request ends it with Stopped at once. For work that can be repeated.

        With several ranks, which have to stop at the same place, that is where they next ``check``.
        """
        self._interrupting = devices.rank_count() == 1
        try:
            self.check()
            yield
        finally:
            self._interrupting = False

    def check(self) -> None:
        """Raises Stopped after a request to any rank. All ranks have to call this at the same places."""
        number = devices.largest(self.signal)
        if number:
            self.signal = number
            raise Stopped(128 + self.signal)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        for each, handler in self._before.items():
            signal.signal(each, handler)
        if self._interrupting:
            self.check()
