"""Meanings of expressions: functions from the things of a scene to the things they refer to.

A meaning refers to things on which all observers agree, or raises Unclear if positions are too close. So every
expression is true in the picture, also after it has been resized to a square.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coupalign.refshapes.dice import Dice
from coupalign.refshapes.scene import FACTORS, Kind, Thing

MARGIN = 16  # half pixels: closer positions are not distinguished
# Distances differ if one is 1.3 times the other, which exceeds the distortion of a 144 x 112 picture made square.
_FARTHER = (13, 10)

# Directions as factors of x and y; "left" grows to the left.
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}


class Unclear(Exception):
    """The picture does not show clearly whether a thing is meant."""


@dataclass(frozen=True)
class Described:
    """Things described by (factor, value) pairs that hold, no factor twice, and pairs that do not hold."""

    looks: tuple[tuple[str, str], ...]
    without: tuple[tuple[str, str], ...] = ()

    def fits(self, kind: Kind) -> bool:
        # Generating a data set spends most of its time here; plain loops take half the time of all() and any().
        for factor, value in self.looks:
            if getattr(kind, factor) != value:
                return False
        for factor, value in self.without:
            if getattr(kind, factor) == value:
                return False
        return True

    def named(self, things: Sequence[Thing]) -> list[int]:
        """Returns the indices of the things, in ascending order."""
        return [i for i, thing in enumerate(things) if self.fits(thing.kind)]


@dataclass(frozen=True)
class Related:
    """The described things that lie in a direction from an anchor, which is one thing."""

    of: Described
    direction: str
    anchor: Described | Ranked

    def named(self, things: Sequence[Thing]) -> list[int]:
        """Returns the indices of the things. Raises: Unclear."""
        anchor = only(self.anchor, things)
        return [i for i in self.of.named(things) if i != anchor and self._holds(things[i], things[anchor])]

    def _holds(self, thing: Thing, anchor: Thing) -> bool:
        """True if clearly ahead in the direction and not too far aside, False if not ahead; else raises Unclear."""
        x, y = (a - b for a, b in zip(thing.centre, anchor.centre, strict=True))
        dx, dy = DIRECTIONS[self.direction]
        ahead, aside = x * dx + y * dy, abs(x * dy) + abs(y * dx)
        if ahead <= 0:
            return False
        if 2 * ahead < aside or not _clearly_ahead(thing, anchor, self.direction):
            raise Unclear
        return True


@dataclass(frozen=True)
class Ranked:
    """The thing with number `rank` (from 1) in a direction among others."""

    of: Described | Related
    direction: str
    rank: int

    def named(self, things: Sequence[Thing]) -> list[int]:
        """Returns the index of the thing, if it exists. Raises: Unclear."""
        return _nth(self.order(things), self.rank, lambda i, j: _clearly_ahead(things[i], things[j], self.direction))

    def order(self, things: Sequence[Thing]) -> list[int]:
        """Returns the indices of the ranked things, first to last. Raises: Unclear."""
        return sorted(self.of.named(things), key=lambda i: -_along(things[i].centre, self.direction))


@dataclass(frozen=True)
class Closest:
    """The thing with number `rank` (from 1) by distance from an anchor, which is one thing."""

    of: Described
    anchor: Described
    rank: int = 1

    def named(self, things: Sequence[Thing]) -> list[int]:
        """Returns the index of the thing, if it exists. Raises: Unclear."""
        anchor = only(self.anchor, things)
        others = [i for i in self.of.named(things) if i != anchor]
        x, y = things[anchor].centre
        square = {i: (things[i].centre[0] - x) ** 2 + (things[i].centre[1] - y) ** 2 for i in others}
        more, less = (number**2 for number in _FARTHER)
        order = sorted(square, key=square.__getitem__)
        return _nth(order, self.rank, lambda near, far: less * square[far] >= more * square[near])


def _nth(order: list[int], rank: int, clear: Callable[[int, int], bool]) -> list[int]:
    """Item number `rank` (from 1) of `order`, or nothing. Raises: Unclear unless `clear` separates it from others."""
    for here in order[rank - 1 : rank]:
        if all(clear(i, here) for i in order[: rank - 1]) and all(clear(here, i) for i in order[rank:]):
            return [here]
        raise Unclear
    return []


Meaning = Described | Related | Ranked | Closest


def parts_of(meaning: Meaning, things: Sequence[Thing]) -> tuple[list[int], list[int], list[int]]:
    """Returns indices of the described group, the anchors and the ranked things in order. Raises: Unclear."""
    if isinstance(meaning, Described):
        return meaning.named(things), [], []
    if isinstance(meaning, Ranked):
        group, anchors, _ = parts_of(meaning.of, things)
        return group, anchors, meaning.order(things)
    order = meaning.anchor.order(things) if isinstance(meaning.anchor, Ranked) else []
    return meaning.of.named(things), meaning.anchor.named(things), order


def direction_of(thing: Thing, anchor: Thing, dice: Dice) -> str:
    """Returns a direction in which `thing` lies from `anchor`."""
    x, y = (a - b for a, b in zip(thing.centre, anchor.centre, strict=True))
    across, down = "left" if x < 0 else "right", "top" if y < 0 else "bottom"
    if abs(x) >= 2 * abs(y):
        return across
    return down if abs(y) >= 2 * abs(x) else dice.pick((across, down))


def only(meaning: Meaning, things: Sequence[Thing]) -> int:
    """Returns the index of the one thing of `meaning`. Raises: Unclear if there is no or more than one thing."""
    named = meaning.named(things)
    if len(named) != 1:
        raise Unclear
    return named[0]


def refers_to(meaning: Meaning, things: Sequence[Thing], index: int) -> bool:
    """Whether `meaning` refers to the thing `index` clearly and to nothing else."""
    try:
        return only(meaning, things) == index
    except Unclear:
        return False


def fits_nothing(meaning: Meaning, things: Sequence[Thing]) -> bool:
    """Whether clearly no thing is meant, because none is like that or because an anchor does not exist."""
    if isinstance(meaning, Described):
        return not meaning.named(things)
    if fits_nothing(meaning.of, things) or (not isinstance(meaning, Ranked) and fits_nothing(meaning.anchor, things)):
        return True
    try:
        return not meaning.named(things)
    except Unclear:
        return False


def looks_of(kind: Kind, factors: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Returns (factor, value) pairs of a kind, in the order of FACTORS."""
    return tuple((factor, getattr(kind, factor)) for factor in FACTORS if factor in factors)


def _along(point: tuple[int, int], direction: str) -> int:
    dx, dy = DIRECTIONS[direction]
    return point[0] * dx + point[1] * dy


def _clearly_ahead(first: Thing, second: Thing, direction: str) -> bool:
    """Whether the middle is further in a direction by MARGIN, and both edges are further as well."""
    return _along(first.centre, direction) - _along(second.centre, direction) >= MARGIN and all(
        _along(a, direction) > _along(b, direction) for a, b in zip(first.corners, second.corners, strict=True)
    )
