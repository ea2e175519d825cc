"""Generates expressions that name several objects or none, as in generalised referring segmentation (gRefCOCO)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from coupalign.refshapes.dice import Dice
from coupalign.refshapes.expressions import (
    MOST_WORDS,
    PROPOSALS,
    TRIES,
    WEIGHTS,
    description,
    group_of,
    pick_anchor,
    wordy,
)
from coupalign.refshapes.meaning import (
    Described,
    Meaning,
    Ranked,
    Related,
    Unclear,
    direction_of,
    fits_nothing,
    refers_to,
)
from coupalign.refshapes.scene import FACTORS, HELD_OUT, Scene, Thing
from coupalign.refshapes.wording import word, word_several

# Expressions of gRefCOCO, all splits, that name one object, several and none: the authors' figures.
SHARES = {"one": 166_008, "several": 80_022, "none": 32_202}
# How often an expression that names nothing is made from one of a family; "several" as often as beside the others.
_SOURCES = {**WEIGHTS, "several": sum(WEIGHTS.values()) * SHARES["several"] // SHARES["one"]}

_FORMS = {"plain": 40, "related": 45, "negated": 15}  # how often a form of "several" comes first


@dataclass(frozen=True)
class Naming:
    """An expression, the indices of all things that it names, and the shapes that a guess by class would take."""

    text: str
    things: tuple[int, ...]
    shapes: tuple[str, ...]


def make_several(scene: Scene, count: int, unseen_pairs: bool, dice: Dice) -> list[Naming]:
    """Returns at most `count` different expressions that each name two or more things, but not the whole scene.

    With `unseen_pairs`, one of the things has a colour-shape pair that is held out from training.
    """
    made: dict[str, Naming] = {}
    for _ in range(count):
        meaning = _several(scene.things, dice)
        if meaning is None:
            continue
        named = tuple(meaning.named(scene.things))
        kinds = [scene.things[i].kind for i in named]
        text = word_several(meaning, len(named), dice)
        if len(text.split()) <= MOST_WORDS and (not unseen_pairs or any(kind.held_out for kind in kinds)):
            shapes = tuple(shape for shape in FACTORS["shape"] if shape in {kind.shape for kind in kinds})
            made.setdefault(text, Naming(text, named, shapes))
    return list(made.values())


def make_none(scene: Scene, count: int, unseen_pairs: bool, dice: Dice) -> list[Naming]:
    """Returns at most `count` different expressions that name nothing.

    Each differs in a single look from an expression that names one thing or several. Colour-shape pairs that are held
    out from training are only mentioned with `unseen_pairs`: a model could learn that they never exist.
    """
    made: dict[str, Naming] = {}
    for _ in range(count):
        for family in dice.weighted_order(_SOURCES):
            naming = _none(family, scene, unseen_pairs, dice)
            if naming and naming.text not in made:
                made[naming.text] = naming
                break
    return list(made.values())


def _several(things: Sequence[Thing], dice: Dice) -> Described | Related | None:
    """Returns a meaning that clearly names two or more things, but not all, without a redundant part."""
    for form in dice.weighted_order(_FORMS):
        for _ in range(TRIES):
            meaning = _PROPOSALS[form](things, dice.below(len(things)), dice)
            try:
                if meaning is not None and 2 <= len(meaning.named(things)) < len(things):
                    return meaning
            except Unclear:
                continue
    return None


def _plain(things: Sequence[Thing], index: int, dice: Dice) -> Described | None:
    meaning = description(things[index], dice, 0 if dice.chance(20) else 1, 2)
    return meaning if meaning.looks and not wordy(meaning, things) else None


def _related(things: Sequence[Thing], index: int, dice: Dice) -> Related | None:
    group, found = group_of(things, index, dice, 3), pick_anchor(things, index, dice)
    if not group or not found:
        return None
    other, anchor = found
    related = Related(group, direction_of(things[index], things[other], dice), anchor)
    try:
        is_needed = set(related.named(things)) != set(group.named(things)) - {other}
    except Unclear:
        return None
    return related if is_needed else None


def _negated(things: Sequence[Thing], index: int, dice: Dice) -> Described | None:
    """Leaves out one or two colours, or a pattern that has a name."""
    factor = dice.pick(("colour", "colour", "pattern"))
    group = description(things[index], dice, 0, 1)
    if any(said == factor for said, _ in group.looks):
        return None
    others = {getattr(things[i].kind, factor) for i in group.named(things)}
    named = sorted(others - {getattr(things[index].kind, factor), "solid"})
    left_out = dice.some(named, dice.between(1, 2) if factor == "colour" else 1)
    return Described(group.looks, tuple((factor, value) for value in left_out)) if left_out else None


# Each proposes a meaning, or None; it may name one thing, several or none, or be unclear.
_PROPOSALS: Mapping[str, Callable[[Sequence[Thing], int, Dice], Described | Related | None]] = {
    "plain": _plain,
    "related": _related,
    "negated": _negated,
}


def _none(family: str, scene: Scene, unseen_pairs: bool, dice: Dice) -> Naming | None:
    things = scene.things
    for _ in range(TRIES):
        index = dice.pick(scene.referents(unseen_pairs))
        meaning = _several(things, dice) if family == "several" else PROPOSALS[family](things, index, dice)
        if meaning is None or (family != "several" and not refers_to(meaning, things, index)):
            continue
        changed = _changed(meaning, unseen_pairs, dice)
        if changed is None or not fits_nothing(changed, things):
            continue
        if family == "several":
            text = word_several(changed, len(meaning.named(things)), dice)
        else:
            text = word(changed, dice)
        if len(text.split()) <= MOST_WORDS:
            return Naming(text, (), (_shape_of(changed) or things[index].kind.shape,))
    return None


def _changed(meaning: Meaning, unseen_pairs: bool, dice: Dice) -> Meaning | None:
    """Changes one look of what is meant or of an anchor."""
    looks = [(described, look) for described in _descriptions(meaning) for look in described.looks]
    if not looks:
        return None
    described, (factor, value) = dice.pick(looks)
    other = dice.pick([each for each in FACTORS[factor] if each != value])
    said = {**dict(described.looks), factor: other}
    if (said.get("colour"), said.get("shape")) in HELD_OUT and not unseen_pairs:
        return None
    return _replaced(meaning, described, replace(described, looks=tuple(said.items())))


def _descriptions(meaning: Meaning) -> list[Described]:
    if isinstance(meaning, Described):
        return [meaning]
    parts = [meaning.of] if isinstance(meaning, Ranked) else [meaning.of, meaning.anchor]
    return [described for part in parts for described in _descriptions(part)]


def _replaced(meaning: Meaning, old: Described, new: Described) -> Meaning:
    if isinstance(meaning, Described):
        return new if meaning is old else meaning
    names = ["of"] if isinstance(meaning, Ranked) else ["of", "anchor"]
    return replace(meaning, **{name: _replaced(getattr(meaning, name), old, new) for name in names})


def _shape_of(meaning: Meaning) -> str | None:
    """The shape that is said of what is meant, if any."""
    return dict(meaning.looks).get("shape") if isinstance(meaning, Described) else _shape_of(meaning.of)
