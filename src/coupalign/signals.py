"""Signals that reach Python whatever MindSpore does. Imports nothing of MindSpore: it has to come first."""

from __future__ import annotations

import _thread
import os
import signal
import threading

HANDLED = (signal.SIGINT, signal.SIGTERM)


def take_signals() -> None:
    """Gives SIGINT and SIGTERM to Python's handlers in the main thread, for the rest of the process.

    While MindSpore runs a graph it answers Ctrl-C itself, by sending the process SIGTERM. So the signals are blocked,
    in this thread and in all that it starts, and one thread waits for them. To be called before MindSpore is
    imported, since threads that are there already go on as they were.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    while True:
        number = signal.sigwait(HANDLED)
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
            os.kill(os.getpid(), number)
        _thread.interrupt_main(number)  # type: ignore[arg-type]
