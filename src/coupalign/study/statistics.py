"""What a few seeds tell: means, spreads, and which differences are larger than the spread."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, stdev, variance

from scipy.stats import t

FEWEST_SEEDS = 3
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """Of two means, with the interval of Welch's t test; None where there are too few seeds for one."""

    mean: float
    interval: tuple[float, float] | None

    @property
    def sign(self) -> int:
        """-1 or 1 where the seeds tell the two apart, else 0."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return 0
        return 1 if self.mean > 0 else -1


@dataclass(frozen=True)
class Order:
    """Of the pairs of rows that a paper's figures order, how many `agree` with the means here; how many of all `pairs`
    the seeds tell apart in the same order (`same`) and in the other (`other`)."""

    pairs: int
    agree: int
    same: int
    other: int


def spread(values: Sequence[float]) -> float:
    """Sample standard deviation; 0 of a single value."""
    return stdev(values) if len(values) > 1 else 0.0


def difference(values: Sequence[float], reference: Sequence[float]) -> Difference:
    """Mean of `values` less that of `reference`, each over seeds that are independent of each other."""
    mean = fmean(values) - fmean(reference)
    if min(len(values), len(reference)) < FEWEST_SEEDS:
        return Difference(mean, None)
    parts = [variance(each) / len(each) for each in (values, reference)]
    if not sum(parts):
        return Difference(mean, (mean, mean))
    # Welch and Satterthwaite's degrees of freedom.
    freedom = sum(parts) ** 2 / sum(part**2 / (len(each) - 1) for part, each in zip(parts, (values, reference)))
    half = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(sum(parts))
    return Difference(mean, (mean - half, mean + half))


def order(values: Mapping[str, Sequence[float]], paper: Mapping[str, float]) -> Order:
    """How the order of rows agrees with a paper's.

    Args:
        values: by row, a value a seed.
        paper: by row; rows that are not in both, and pairs that are equal in the paper, do not count.
    """
    pairs = [
        (low, high) if paper[low] < paper[high] else (high, low)
        for low, high in combinations([row for row in paper if row in values], 2)
        if paper[low] != paper[high]
    ]
    found = [difference(values[high], values[low]) for low, high in pairs]
    return Order(
        len(pairs),
        sum(each.mean > 0 for each in found),
        sum(each.sign > 0 for each in found),
        sum(each.sign < 0 for each in found),
    )
