"""Turns meanings into words, in several ways."""

from __future__ import annotations

from coupalign.refshapes.dice import Dice
from coupalign.refshapes.meaning import Closest, Described, Meaning, Ranked, Related

_WORDS = {
    "small": ("small", "small", "little", "tiny"),
    "large": ("large", "large", "big"),
    "solid": ("solid", "plain"),
    "striped": ("striped",),
    "dotted": ("dotted", "spotted"),
    "purple": ("purple", "purple", "violet"),
    "cyan": ("cyan", "cyan", "turquoise"),
    "cross": ("cross", "cross", "plus sign"),
    "ring": ("ring",),
    "circle": ("circle", "circle", "disc"),
}
_BEHIND = {"striped": ("with stripes",), "dotted": ("with dots", "with spots"), "solid": ("without a pattern",)}
_ANYTHING = ("object", "shape", "thing")
_RANKS = ("first", "second", "third", "fourth", "fifth")
_EXTREME: dict[str, tuple[str, ...]] = {"left": ("leftmost",), "right": ("rightmost",)}
_EXTREME |= {"top": ("topmost", "highest", "top"), "bottom": ("lowest", "bottom")}
_FARTHEST = {
    "left": ("furthest to the left", "on the far left", "nearest the left edge"),
    "right": ("furthest to the right", "on the far right", "nearest the right edge"),
    "top": ("at the very top", "nearest the top edge", "higher than the others"),
    "bottom": ("at the very bottom", "nearest the bottom edge", "lower than the others"),
}
_RELATION = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "top": ("above", "higher up than"),
    "bottom": ("below", "under", "beneath"),
}
_COUNTS = ("two", "three", "four", "five")
_INVERSE = {"left": "to its right", "right": "to its left", "top": "below it", "bottom": "above it"}


def word(meaning: Meaning, dice: Dice) -> str:
    """Returns an expression in lower case, with or without an article."""
    text = _noun_phrase(meaning, dice)
    return text if dice.chance(40) else f"the {text}"


def word_several(meaning: Described | Related, count: int, dice: Dice) -> str:
    """Returns an expression in lower case that names `count` things, two or more; it need not say how many."""
    if isinstance(meaning, Related):
        relation, anchor = dice.pick(_RELATION[meaning.direction]), _noun_phrase(meaning.anchor, dice)
        text = f"{_described(meaning.of, dice, plural=True)} {relation} the {anchor}"
    else:
        text = _described(Described(meaning.looks), dice, plural=True) + _excluded(meaning, dice)
    number = dict(enumerate(_COUNTS, 2)).get(count)
    return dice.pick(["all ", "the ", "", *([f"the {number} ", f"{number} "] if number else [])]) + text


def _excluded(meaning: Described, dice: Dice) -> str:
    """Says of several things what they are not: a pattern, one or two colours, or nothing."""
    if not meaning.without:
        return ""
    said = [_said(value, dice) for _, value in meaning.without]
    if len(said) == 2:
        return f" neither {said[0]} nor {said[1]}"
    if meaning.without[0][0] == "colour":
        return f" of any colour but {said[0]}"
    return " without stripes" if said[0] == "striped" else f" without {dice.pick(('dots', 'spots'))}"


def _noun_phrase(meaning: Meaning, dice: Dice) -> str:
    if isinstance(meaning, Described):
        return _negated(meaning, dice) if meaning.without else _described(meaning, dice)
    if isinstance(meaning, Related):
        return _related(meaning, dice)
    if isinstance(meaning, Closest):
        near = dice.pick(("closest", "nearest"))
        rank = f"{_RANKS[meaning.rank - 1]} " if meaning.rank > 1 else ""
        of, anchor = _described(meaning.of, dice), _described(meaning.anchor, dice)
        if dice.chance(50):
            return f"{rank}{near} {of} to the {anchor}"
        return f"{of} that is {rank}{near} to the {anchor}"
    if isinstance(meaning.of, Related):
        return _ranked_among_related(meaning, dice)
    return _extreme(meaning, dice) if meaning.rank == 1 else _ordinal(meaning, dice)


def _described(meaning: Described, dice: Dice, plural: bool = False) -> str:
    looks = dict(meaning.looks)
    noun = _said(looks["shape"], dice) if "shape" in looks else dice.pick(_ANYTHING)
    if plural:
        noun += "es" if noun.endswith("ss") else "s"
    behind = "pattern" in looks and dice.chance(30)
    order = ["size", "colour", "pattern"] if dice.chance(40) else ["size", "pattern", "colour"]
    words = [_said(looks[factor], dice) for factor in order if factor in looks and not (behind and factor == "pattern")]
    return " ".join([*words, noun, *([dice.pick(_BEHIND[looks["pattern"]])] if behind else [])])


def _negated(meaning: Described, dice: Dice) -> str:
    of = _described(Described(meaning.looks), dice)
    said = [_said(value, dice) for _, value in meaning.without]
    if meaning.without[0][0] == "shape":
        said = [f"a {value}" for value in said]
    if len(said) == 2:
        return f"{of} that is neither {said[0]} nor {said[1]}"
    factor, value = meaning.without[0]
    ways = [f"{of} that is not {said[0]}"]
    if factor == "pattern" and value != "solid":
        plain = "stripes" if value == "striped" else dice.pick(("dots", "spots"))
        ways += [f"{of} without {plain}", f"{of} that has no {plain}"]
    elif factor == "shape":
        ways.append(f"{of} that is anything but {said[0]}")
    elif factor == "colour":
        ways.append(f"{of} of any colour but {said[0]}")
    return dice.pick(ways)


def _related(meaning: Related, dice: Dice) -> str:
    of, anchor = _described(meaning.of, dice), _noun_phrase(meaning.anchor, dice)
    if dice.chance(20):
        return f"{of} that has the {anchor} {_INVERSE[meaning.direction]}"
    that_is = "that is " if dice.chance(20) else ""
    return f"{of} {that_is}{dice.pick(_RELATION[meaning.direction])} the {anchor}"


def _extreme(meaning: Ranked, dice: Dice) -> str:
    if dice.chance(50):
        return f"{dice.pick(_EXTREME[meaning.direction])} {_described(meaning.of, dice)}"
    return f"{_described(meaning.of, dice)} {dice.pick(_FARTHEST[meaning.direction])}"


def _ordinal(meaning: Ranked, dice: Dice) -> str:
    rank, side = _RANKS[meaning.rank - 1], f"from the {meaning.direction}"
    way = dice.below(3)
    if way == 0:
        return f"{rank} {_described(meaning.of, dice)} {side}"
    if way == 1:
        return f"{_described(meaning.of, dice)} that is {rank} {side}"
    return f"{rank} {side} among the {_described(meaning.of, dice, plural=True)}"


def _ranked_among_related(meaning: Ranked, dice: Dice) -> str:
    related = meaning.of
    described, relation = _described(related.of, dice, plural=True), dice.pick(_RELATION[related.direction])
    group = f"{described} {relation} the {_described(related.anchor, dice)}"
    if meaning.rank == 1:
        return f"{dice.pick(_EXTREME[meaning.direction])} of the {group}"
    return f"{_RANKS[meaning.rank - 1]} from the {meaning.direction} of the {group}"


def _said(value: str, dice: Dice) -> str:
    return dice.pick(_WORDS.get(value, (value,)))
