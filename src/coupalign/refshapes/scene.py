"""Generates scenes of RefShapes: the objects, their places, and what is visible of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from coupalign.refshapes.dice import Dice
from coupalign.refshapes.drawing import COLOURS, background, paint, shape_mask

FACTORS: dict[str, tuple[str, ...]] = {
    "shape": ("circle", "square", "triangle", "diamond", "cross", "star", "ring", "heart"),
    "colour": tuple(COLOURS),
    "size": ("small", "large"),
    "pattern": ("solid", "striped", "dotted"),
}
# Colour-shape pairs that occur only in testA, as its referents: one of each shape and of each colour.
HELD_OUT = frozenset((FACTORS["colour"][(3 * i + 1) % 8], shape) for i, shape in enumerate(FACTORS["shape"]))
# Smallest and largest number of objects in a scene, by split.
OBJECTS = {"train": (3, 8), "val": (3, 8), "testA": (3, 8), "testB": (9, 12)}

_CANVASES = ((128, 128), (128, 128), (112, 144), (144, 112), (128, 144), (144, 128), (120, 120))
_RADIUS = {"small": (9, 11), "large": (17, 20)}
_VISIBLE_PERCENT = 65
_VISIBLE_PIXELS = 70
_BORDER = 2


@dataclass(frozen=True)
class Kind:
    """Looks of an object."""

    shape: str
    colour: str
    size: str
    pattern: str

    def differences(self, other: Kind) -> list[str]:
        """Returns the factors in which two kinds differ."""
        return [factor for factor in FACTORS if getattr(self, factor) != getattr(other, factor)]

    @property
    def held_out(self) -> bool:
        return (self.colour, self.shape) in HELD_OUT


@dataclass(frozen=True)
class Thing:
    """An object of a scene: its kind and the box (left, top, width, height; pixels) of its visible part."""

    kind: Kind
    box: tuple[int, int, int, int]

    @property
    def centre(self) -> tuple[int, int]:
        """Middle (x, y) of the visible box, in half pixels."""
        left, top, width, height = self.box
        return 2 * left + width, 2 * top + height

    @property
    def corners(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Upper left and lower right (x, y) of the visible box, in pixels."""
        left, top, width, height = self.box
        return (left, top), (left + width, top + height)


@dataclass(frozen=True)
class Scene:
    """A picture and its objects."""

    image: np.ndarray  # (H, W) uint8, rows of the palette
    labels: np.ndarray  # (H, W) int16, index of the visible thing, -1 for the background
    things: tuple[Thing, ...]  # in the order of drawing, later ones in front

    def referents(self, unseen_pairs: bool) -> list[int]:
        """Returns things with a distractor of their class and one that differs in a single factor.

        With `unseen_pairs`, only things whose colour-shape pair is held out from training.
        """
        kinds = [thing.kind for thing in self.things]
        return [
            i
            for i, kind in enumerate(kinds)
            if (kind.held_out or not unseen_pairs)
            and any(other.shape == kind.shape for j, other in enumerate(kinds) if j != i)
            and any(len(kind.differences(other)) == 1 for other in kinds)
        ]


def make_scene(dice: Dice, count: tuple[int, int], unseen_pairs: bool) -> Scene:
    """Generates a scene of `count` (smallest, largest number) objects, at least one of which can be a referent.

    Held-out colour-shape pairs occur only with `unseen_pairs`.
    """
    while True:
        height, width = dice.pick(_CANVASES)
        kinds = _kinds(dice, dice.between(*count), unseen_pairs)
        scene = _place(dice, kinds, height, width)
        if scene and scene.referents(unseen_pairs):
            return scene


def _kinds(dice: Dice, count: int, unseen_pairs: bool) -> list[Kind]:
    """Draws similar kinds in random order: one has a distractor of its class and a near twin."""

    def random_kind() -> Kind:
        return Kind(**{factor: dice.pick(values) for factor, values in FACTORS.items()})

    def changed(kind: Kind, factors: list[str]) -> Kind:
        return replace(kind, **{f: dice.pick([v for v in FACTORS[f] if v != getattr(kind, f)]) for f in factors})

    def allowed(make: Callable[[], Kind]) -> Kind:
        while (kind := make()).held_out and not unseen_pairs:
            pass
        return kind

    if unseen_pairs:
        colour, shape = dice.pick(sorted(HELD_OUT))
        first = replace(random_kind(), colour=colour, shape=shape)
    else:
        first = allowed(random_kind)
    kinds = [
        first,
        allowed(lambda: changed(first, [dice.pick([*FACTORS])])),
        allowed(lambda: changed(first, dice.some(("colour", "size", "pattern"), dice.between(1, 2)))),
    ]
    while len(kinds) < count:
        roll = dice.below(100)
        if roll < 60:
            kinds.append(allowed(lambda: changed(dice.pick(kinds), dice.some([*FACTORS], dice.between(1, 2)))))
        elif roll < 70:
            kinds.append(dice.pick(kinds))
        else:
            kinds.append(allowed(random_kind))
    return dice.some(kinds, count)


def _place(dice: Dice, kinds: list[Kind], height: int, width: int) -> Scene | None:
    """Draws the kinds on top of each other; returns None if there is no place for one."""
    image = background(height, width, dice)
    labels = np.full((height, width), -1, np.int16)
    full_areas: list[int] = []
    for index, kind in enumerate(kinds):
        radius = dice.between(*_RADIUS[kind.size])
        mask = shape_mask(kind.shape, radius)
        full_areas.append(int(mask.sum()))
        for _ in range(40):
            left = dice.between(_BORDER, width - _BORDER - 2 * radius)
            top = dice.between(_BORDER, height - _BORDER - 2 * radius)
            window = slice(top, top + 2 * radius), slice(left, left + 2 * radius)
            trial = labels.copy()
            trial[window][mask] = index
            areas = np.bincount(trial.ravel() + 1, minlength=index + 2)[1:]
            if (100 * areas >= _VISIBLE_PERCENT * np.array(full_areas)).all() and areas.min() >= _VISIBLE_PIXELS:
                break
        else:
            return None
        labels = trial
        image[window][mask] = paint(mask, kind.colour, kind.pattern, dice.below(4), dice)[mask]
    return Scene(image, labels, tuple(Thing(kind, _box(labels == i)) for i, kind in enumerate(kinds)))


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1))
