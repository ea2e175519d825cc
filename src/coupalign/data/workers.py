"""Processes that share work on a data set."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import cv2

from coupalign.errors import UserError

_AHEAD = 4  # submitted jobs per worker: enough to keep all workers busy, few enough to stop soon


def map_in_order(work: Callable[[Any], Any], jobs: Iterable[Any], workers: int) -> Generator[Any, None, None]:
    """Yields ``work(job)`` for each job, in order, computed by `workers` processes; by this process if it is 1.

    When the iterator is closed early, it waits for the running jobs and starts no others.

    Raises:
        UserError: A process was killed.
        Exception: Whatever `work` raises.
    """
    if workers == 1:
        yield from map(work, jobs)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start)
    try:
        waiting: deque = deque()
        for job in jobs:
            waiting.append(pool.submit(work, job))
            if len(waiting) == _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed, probably because memory ran out: start again with fewer processes "
            "(--workers; for pretrain.py --num_workers)"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start() -> None:
    # The parent handles Ctrl-C; and a worker is not notified when its parent is killed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
