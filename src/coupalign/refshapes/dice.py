"""Random choices that are the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


class Dice:
    """Choices drawn from NumPy's RandomState, whose stream is frozen (NEP 19).

    It draws doubles and 32-bit integers only, because the default integer of randint differs between platforms.

    Args:
        seed: Integers that together select the stream.
    """

    def __init__(self, *seed: int):
        self._state = np.random.RandomState(seed)

    def below(self, limit: int) -> int:
        """Draws an integer from 0 to limit - 1."""
        return int(self._state.random_sample() * limit)

    def between(self, first: int, last: int) -> int:
        """Draws an integer from `first` to `last`, both included."""
        return first + self.below(last - first + 1)

    def chance(self, percent: int) -> bool:
        return self.below(100) < percent

    def pick(self, items: Sequence[Item]) -> Item:
        return items[self.below(len(items))]

    def some(self, items: Sequence[Item], count: int) -> list[Item]:
        """Draws `count` different items (or all, if there are fewer) in random order."""
        rest = list(items)
        return [rest.pop(self.below(len(rest))) for _ in range(min(count, len(rest)))]

    def weighted_order(self, weights: dict[Item, int]) -> list[Item]:
        """Returns the keys in an order in which each next one is drawn from the rest by weight."""
        rest, order = dict(weights), []
        while rest:
            ticket = self.below(sum(rest.values()))
            order.append(list(rest)[np.searchsorted(np.cumsum([*rest.values()]), ticket, side="right")])
            del rest[order[-1]]
        return order

    def array(self, limit: int, shape: tuple[int, ...]) -> np.ndarray:
        """Draws an int32 array of values from 0 to limit - 1."""
        return self._state.randint(limit, size=shape, dtype=np.int32)
