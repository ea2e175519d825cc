"""Where the time of a step goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
PARTS = ("data_ms", "step_ms", "host_ms")


class Stopwatch:
    """Tells apart waiting for data, the step on the device, and all else the host does between two steps.

    A lap goes from the end of a step to the end of the next. The first of all compiles, and is left out of means.

    Args:
        clock: gives the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._compiled = False
        self._laps = self._all_laps = 0
        self._sums, self._all_seconds = dict.fromkeys(PARTS, 0.0), 0.0
        self.start()

    def start(self) -> None:
        """Begins a lap now: what was done since the last one is no part of any."""
        self._since = self._clock()
        self._data = self._step = 0.0

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches; the time to get each is waiting for data, wherever they are asked for."""
        batches = iter(batches)
        while True:
            before = self._clock()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self._data += self._clock() - before
            yield batch

    @contextmanager
    def working(self) -> Iterator[None]:
        """The time of the block is the step's, but for what it waits for data."""
        before, data = self._clock(), self._data
        yield
        self._step += self._clock() - before - (self._data - data)

    def lap(self) -> dict[str, float]:
        """Ends the lap and begins the next. Returns: milliseconds by the names in PARTS."""
        seconds = self._clock() - self._since
        parts = {
            name: round(1e3 * part, 3)
            for name, part in zip(PARTS, (self._data, self._step, seconds - self._data - self._step))
        }
        if self._compiled:
            self._laps, self._all_laps = self._laps + 1, self._all_laps + 1
            self._sums = {name: total + parts[name] for name, total in self._sums.items()}
            self._all_seconds += seconds
        self._compiled = True
        self.start()
        return parts

    def means(self) -> dict[str, float]:
        """Means of the laps since this was last called, milliseconds by the names in PARTS; none without laps."""
        laps, sums = self._laps, self._sums
        self._laps, self._sums = 0, dict.fromkeys(PARTS, 0.0)
        return {name: total / laps for name, total in sums.items()} if laps else {}

    def seconds_per_step(self) -> float:
        """Mean of all laps; 0 without."""
        return self._all_seconds / max(self._all_laps, 1)
