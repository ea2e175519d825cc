"""Time per step: waiting for data, the step on the device, and the rest on the host."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np

T = TypeVar("T")
TIME_COLUMNS = ("data_ms", "step_ms", "host_ms")


class StepTimer:
    """Measures a lap from the end of one step to the end of the next. Means leave out the first, which compiles."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._compiled = False
        self._sums = np.zeros(4)  # laps, then milliseconds by TIME_COLUMNS
        self.start()

    def start(self) -> None:
        """Starts a lap now. Time since the last lap is not counted."""
        self._since = self._clock()
        self._data = self._step = 0.0

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """Yields from `batches` and counts the time until each batch arrives as waiting for data."""
        before = self._clock()
        for batch in batches:
            self._data += self._clock() - before
            yield batch
            before = self._clock()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Counts the time of the block as the step's, without the time spent waiting for data in it."""
        before, data = self._clock(), self._data
        yield
        self._step += self._clock() - before - (self._data - data)

    def lap(self) -> dict[str, float]:
        """Ends the lap and starts the next. Returns milliseconds by TIME_COLUMNS."""
        host = self._clock() - self._since - self._data - self._step
        times = [round(1e3 * seconds, 3) for seconds in (self._data, self._step, host)]
        if self._compiled:
            self._sums += (1, *times)
        self._compiled = True
        self.start()
        return dict(zip(TIME_COLUMNS, times))

    def epoch_means(self) -> dict[str, float]:
        """Means of the laps since the last call, in milliseconds by TIME_COLUMNS; empty without laps."""
        laps, *times = self._sums
        self._sums = np.zeros(4)
        return {name: float(total / laps) for name, total in zip(TIME_COLUMNS, times)} if laps else {}
