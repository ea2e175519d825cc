"""Generates expressions of six families: meanings without redundant parts, and their words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coupalign.refshapes.dice import Dice
from coupalign.refshapes.meaning import (
    DIRECTIONS,
    Closest,
    Described,
    Meaning,
    Ranked,
    Related,
    Unclear,
    direction_of,
    looks_of,
    refers_to,
)
from coupalign.refshapes.scene import Thing
from coupalign.refshapes.wording import word

# How often a family comes first if all are possible; some seldom are.
WEIGHTS = {"attribute": 60, "extreme": 11, "ordinal": 26, "relation": 44, "relation_ordinal": 50, "negation": 14}
TRIES = 60
MOST_WORDS = 17


@dataclass(frozen=True)
class Expression:
    family: str
    text: str
    meaning: Meaning


def make_expressions(things: Sequence[Thing], index: int, count: int, dice: Dice) -> list[Expression]:
    """Returns at most `count` expressions of different families; each refers to the thing `index` and nothing else."""
    made = []
    for family in dice.weighted_order(WEIGHTS):
        for _ in range(TRIES):
            meaning = PROPOSALS[family](things, index, dice)
            if meaning is None or not refers_to(meaning, things, index):
                continue
            text = word(meaning, dice)
            if len(text.split()) <= MOST_WORDS:
                made.append(Expression(family, text, meaning))
                break
        if len(made) == count:
            break
    return made


def description(thing: Thing, dice: Dice, fewest: int, most: int) -> Described:
    """Describes a thing by some of its looks, mostly with its shape."""
    factors = dice.some(("colour", "size", "pattern"), dice.between(fewest, most))
    return Described(looks_of(thing.kind, factors + ["shape"] * dice.chance(75)))


def group_of(things: Sequence[Thing], index: int, dice: Dice, fewest: int) -> Described | None:
    """Describes the thing such that at least `fewest` things fit."""
    group = description(things[index], dice, 0, 2)
    return group if len(group.named(things)) >= fewest else None


def pick_anchor(things: Sequence[Thing], index: int, dice: Dice) -> tuple[int, Described] | None:
    """Picks another thing and describes it uniquely, without redundant looks."""
    other = dice.pick([i for i in range(len(things)) if i != index])
    anchor = description(things[other], dice, 0, 2)
    return (other, anchor) if refers_to(anchor, things, other) and not wordy(anchor, things) else None


def wordy(meaning: Described, things: Sequence[Thing]) -> bool:
    """Whether a description fits as few things if one of its looks is left out."""
    count = len(meaning.named(things))
    return any(
        len(Described(tuple(look for look in meaning.looks if look != left_out)).named(things)) == count
        for left_out in meaning.looks
        if left_out[0] != "shape"
    )


def _attribute(things: Sequence[Thing], index: int, dice: Dice) -> Meaning | None:
    meaning = description(things[index], dice, 1, 3)
    # People often say more than necessary.
    return meaning if dice.chance(15) or not wordy(meaning, things) else None


def _negation(things: Sequence[Thing], index: int, dice: Dice) -> Meaning | None:
    kind = things[index].kind
    factor = dice.pick(("colour", "colour", "pattern", "size", "shape"))
    group = description(things[index], dice, 0, 1)
    if any(said == factor for said, _ in group.looks):
        return None
    others = sorted({getattr(things[i].kind, factor) for i in group.named(things)} - {getattr(kind, factor)})
    if not 0 < len(others) <= 2:
        return None
    return Described(group.looks, tuple((factor, value) for value in dice.some(others, 2)))


def _extreme(things: Sequence[Thing], index: int, dice: Dice) -> Meaning | None:
    group = group_of(things, index, dice, 2)
    return group and Ranked(group, dice.pick(list(DIRECTIONS)), 1)


def _ordinal(things: Sequence[Thing], index: int, dice: Dice) -> Meaning | None:
    group = group_of(things, index, dice, 3)
    return group and _later_rank(group, things, index, dice)


def _later_rank(group: Described | Related, things: Sequence[Thing], index: int, dice: Dice) -> Ranked | None:
    """Refers to the group's member `index` by its rank, unless it is first, last or beyond the fourth."""
    direction = dice.pick(list(DIRECTIONS))
    ranks = [Ranked(group, direction, rank) for rank in range(2, min(_count(group, things), 5))]
    return next((ranked for ranked in ranks if refers_to(ranked, things, index)), None)


def _relation(things: Sequence[Thing], index: int, dice: Dice) -> Meaning | None:
    group, found = group_of(things, index, dice, 2), pick_anchor(things, index, dice)
    if not group or not found or _tells_apart(group, found[0], things):
        return None
    other, anchor = found
    if dice.chance(15):
        return Closest(group, anchor)
    return Related(group, direction_of(things[index], things[other], dice), anchor)


def _tells_apart(group: Described, anchor: int, things: Sequence[Thing]) -> bool:
    """Whether only one member of the group remains without the anchor."""
    return len(set(group.named(things)) - {anchor}) < 2


def _relation_ordinal(things: Sequence[Thing], index: int, dice: Dice) -> Meaning | None:
    group = group_of(things, index, dice, 2)
    if not group:
        return None
    by_rank = dice.chance(50)
    found = _ranked_anchor(things, index, dice) if by_rank else pick_anchor(things, index, dice)
    if not found or _tells_apart(group, found[0], things):
        return None
    other, anchor = found
    if not by_rank and dice.chance(20):
        return Closest(group, anchor, 2)
    related = Related(group, direction_of(things[index], things[other], dice), anchor)
    return related if by_rank else _ranked(related, things, index, dice)


def _ranked_anchor(things: Sequence[Thing], index: int, dice: Dice) -> tuple[int, Ranked] | None:
    """Picks another thing and refers to it by its rank among similar things."""
    other = dice.pick([i for i in range(len(things)) if i != index])
    group = group_of(things, other, dice, 2)
    ranked = group and _ranked(group, things, other, dice)
    return ranked and (other, ranked)


def _ranked(group: Described | Related, things: Sequence[Thing], index: int, dice: Dice) -> Ranked | None:
    """Refers to the group's member `index` by its rank among two or more; half of the time as an extreme."""
    if dice.chance(50):
        return _later_rank(group, things, index, dice)
    ranked = Ranked(group, dice.pick(list(DIRECTIONS)), 1)
    return ranked if _count(group, things) > 1 and refers_to(ranked, things, index) else None


def _count(group: Described | Related, things: Sequence[Thing]) -> int:
    try:
        return len(group.named(things))
    except Unclear:
        return 0


# Each proposes a meaning of its family, or None; it may refer to the thing `index`, to others, or be unclear.
PROPOSALS = {
    "attribute": _attribute,
    "extreme": _extreme,
    "ordinal": _ordinal,
    "relation": _relation,
    "relation_ordinal": _relation_ordinal,
    "negation": _negation,
}
