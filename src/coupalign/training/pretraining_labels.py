"""RefShapes scenes with a label per pixel and a description, to pretrain a small model on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np

from coupalign.data.tokenizer import Tokenizer
from coupalign.data.transform import prepare_image
from coupalign.data.workers import map_in_order
from coupalign.refshapes.dice import Dice
from coupalign.refshapes.drawing import palette
from coupalign.refshapes.expressions import PROPOSALS, make_expressions
from coupalign.refshapes.meaning import Described, Meaning, Unclear, looks_of, parts_of
from coupalign.refshapes.scene import FACTORS, OBJECTS, Scene, Thing, make_scene
from coupalign.refshapes.wording import word

COLUMNS = ("image", "token_ids", "token_mask", "mask", "labels", "objects")  # of a batch
# Labels of an object, with their numbers of values: its attributes, and its part in the description.
VALUES = {**{factor: len(values) for factor, values in FACTORS.items()}, "group": 2, "anchor": 2, "rank": 6}

_STREAM = 4  # random stream of the scenes; those of the four splits are 0 to 3
_REFERRING = 50  # per cent of the descriptions that are expressions as in train
_POSITIONS = 75  # per cent of the others that name a position
_POSITIONAL = {"extreme": 2, "ordinal": 8, "relation": 7, "relation_ordinal": 7}  # weights of the families among these
_TRIES = 25  # per family
_NEGATIONS = 50  # per cent of the descriptions by attributes that can have a negation
_BACKGROUND = [-1] * len(VALUES) + [0, 0]


class LabelledScenes:
    """Scenes like those of train that are in no split, generated on access.

    Args:
        numbers: Numbers of the scenes. A scene follows from its number and the seed.
        seed: Seed of all scenes.
        size: S, side of the image.
        tokenizer: Tokenizer of the descriptions.

    Item: image (3, S, S) float32, as the model takes it; token_ids, token_mask (T,) int32 of a description by
    attributes or position, which fits one or several objects; mask (S, S) float32, 1 on these objects, else 0; labels
    (9, S/4, S/4) float32. Labels of an object's pixel are the indices of its VALUES and the x and y of its centre, from
    -1 to 1 across the image; elsewhere they are -1, ..., -1, 0, 0. Both are sampled by nearest neighbour: the mask at
    the image's (i, j), the labels at its (4 i + 2, 4 j + 2). At the same places, objects (8, S/4, S/4) float32 are the
    masks of all objects, 0 or 1; missing ones are empty.

    The group is the set of objects that a description is about before it names a position. The anchor is the object
    that the position refers to. The rank is the place of an object in the order that the description counts by, 5 for
    all beyond 4 and 0 outside the order. In "the second ring from the left of those below the star", all rings are the
    group, the star is the anchor, and the rings below it have ranks from the left.
    """

    def __init__(self, numbers: Sequence[int] | np.ndarray, seed: int, size: int, tokenizer: Tokenizer):
        self._numbers, self._seed, self._size, self._tokenizer = numbers, seed, size, tokenizer
        self._palette = palette()

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        dice = Dice(self._seed, _STREAM, self._numbers[index])
        scene = make_scene(dice, OBJECTS["train"], unseen_pairs=False)
        meaning = describe(scene, dice)
        height, width = scene.labels.shape
        y, x = (np.arange(self._size) * side // self._size for side in (height, width))
        thing = scene.labels[y][:, x]  # index of the object, or -1, which selects the last row of the labels
        small = thing[2::4, 2::4]
        labels = np.array([*_labels(scene.things, meaning, height, width), _BACKGROUND], np.float32)
        return (
            prepare_image(self._palette[scene.image], self._size),
            *self._tokenizer.encode(word(meaning, dice)),
            np.isin(thing, meaning.named(scene.things)).astype(np.float32),
            labels[small].transpose(2, 0, 1),
            (small == np.arange(OBJECTS["train"][1])[:, None, None]).astype(np.float32),
        )


def describe(scene: Scene, dice: Dice) -> Meaning:
    """Draws a description of a scene.

    Half of them name one referent, with the families of train. The others fit one object or more; three of four of
    these name a position if the scene allows it.
    """
    things = scene.things
    if dice.chance(_REFERRING):
        for expression in make_expressions(things, dice.pick(scene.referents(unseen_pairs=False)), 1, dice):
            return expression.meaning
    if dice.chance(_POSITIONS):
        for family in dice.weighted_order(_POSITIONAL):
            for _ in range(_TRIES):
                meaning = PROPOSALS[family](things, dice.below(len(things)), dice)
                try:
                    if meaning is not None and meaning.named(things):
                        return meaning
                except Unclear:
                    continue
    return _by_looks(things, dice)


def _by_looks(things: Sequence[Thing], dice: Dice) -> Described:
    """One to three attributes of an object, at times with one negated value that other objects have."""
    kind = dice.pick(things).kind
    first, *factors = dice.some(tuple(FACTORS), dice.between(1, 3))
    rest = Described(looks_of(kind, factors))
    others = {getattr(things[i].kind, first) for i in rest.named(things)} - {getattr(kind, first)}
    if others and dice.chance(_NEGATIONS):
        return Described(rest.looks, ((first, dice.pick(sorted(others))),))
    return Described(looks_of(kind, [first, *factors]))


def labelled_batches(scenes: LabelledScenes, batch_size: int, workers: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields stacked items in order, by COLUMNS. An incomplete last batch is left out.

    Raises:
        UserError: One of the processes that generate scenes was killed. With 1 worker there are none.
    """
    jobs = ((scenes, range(start, start + batch_size)) for start in range(0, len(scenes) - batch_size + 1, batch_size))
    with closing(map_in_order(_batch, jobs, workers)) as batches:
        yield from batches


def _batch(job: tuple[LabelledScenes, range]) -> dict[str, np.ndarray]:
    scenes, indices = job
    parts = zip(*(scenes[index] for index in indices), strict=True)
    return {column: np.stack(part) for column, part in zip(COLUMNS, parts, strict=True)}


def _labels(things: Sequence[Thing], meaning: Meaning, height: int, width: int) -> Iterator[list[float]]:
    group, anchors, order = parts_of(meaning, things)
    for i, thing in enumerate(things):
        looks = [values.index(getattr(thing.kind, factor)) for factor, values in FACTORS.items()]
        rank = min(order.index(i) + 1, VALUES["rank"] - 1) if i in order else 0
        x, y = thing.centre
        yield [*looks, i in group, i in anchors, rank, x / width - 1, y / height - 1]
