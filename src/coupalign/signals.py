"""Signals that reach Python's handlers while MindSpore runs a graph. Imports nothing of MindSpore."""

from __future__ import annotations

import _thread
import os
import signal
import threading

HANDLED = (signal.SIGINT, signal.SIGTERM)


def take_signals() -> None:
    """Passes SIGINT and SIGTERM to Python's handlers in the main thread, for the rest of the process.

    While MindSpore runs a graph, it answers Ctrl-C itself by sending SIGTERM to the process. So this thread and all
    threads that it starts block the signals, and one thread waits for them. Call it before MindSpore is imported,
    because threads that already exist do not block the signals.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    while True:
        number = signal.Signals(signal.sigwait(HANDLED))
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
            os.kill(os.getpid(), number)
        _thread.interrupt_main(number)
