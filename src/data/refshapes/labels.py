"""RefShapes' scenes with what is to be seen at each place of them, and descriptions, to pretrain a small model on."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
from mindspore import dataset as ds

from src.data.refshapes.dice import Dice
from src.data.refshapes.drawing import palette
from src.data.refshapes.expressions import propose
from src.data.refshapes.meaning import Described, Meaning, Unclear, looks_of
from src.data.refshapes.scene import FACTORS, OBJECTS, Thing, make_scene
from src.data.refshapes.wording import word
from src.data.tokenizer import Tokenizer
from src.data.transform import image_transforms
from src.data.workers import map_in_order

_STREAM = 4  # of scenes; those of the four splits are 0 to 3
_POSITIONS = 50  # per cent of the descriptions
_POSITIONAL = ("extreme", "ordinal", "relation", "relation", "relation_ordinal")
_TRIES = 20
_NEGATIONS = 30  # per cent of the descriptions by looks that could have one
_SCENES_AT_ONCE = 32  # handed to a process


class LabelledScenes:
    """Scenes of train's kind that are in no split, made as they are asked for.

    Args:
        numbers: which of the scenes that follow from the seed.
        seed: of all of them.
        size: S, side of the labels.
        tokenizer: of the descriptions.

    Item: image (h, w, 3) uint8, RGB; token_ids, token_mask (T,) int32, of a description by looks or by place, which fits
    one thing or several; labels (7, S, S) float32, nearest neighbour: 1 on the things that it fits, else 0; then, where a
    thing is seen, the places of its shape, colour, size and pattern in FACTORS, and x and y of its centre, from -1 to 1
    across the image; elsewhere -1, -1, -1, -1, 0, 0.
    """

    def __init__(self, numbers: range, seed: int, size: int, tokenizer: Tokenizer):
        self._numbers, self._seed, self._size, self._tokenizer = numbers, seed, size, tokenizer
        self._palette = palette()

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        return with_labels(self.drawn(index))

    def drawn(self, index: int) -> tuple[np.ndarray, ...]:
        """An item before ``with_labels``, an eighth of its size: in place of labels the thing at each place (S, S) int8,
        the last being none; and the labels of each thing and of none (things + 1, 7) float32."""
        dice = Dice(self._seed, _STREAM, self._numbers[index])
        scene = make_scene(dice, OBJECTS["train"], unseen_pairs=False)
        meaning = describe(scene.things, dice)
        token_ids, token_mask = self._tokenizer.encode(word(meaning, dice))
        height, width = scene.labels.shape
        y, x = (np.arange(self._size) * side // self._size for side in (height, width))
        named = set(meaning.named(scene.things))
        values = [[i in named, *_labels(thing, height, width)] for i, thing in enumerate(scene.things)]
        values.append([0, -1, -1, -1, -1, 0, 0])
        return (self._palette[scene.image], token_ids, token_mask, scene.labels[y][:, x].astype(np.int8),
                np.array(values, np.float32))


def with_labels(drawn: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """An item of LabelledScenes."""
    *others, thing, values = drawn
    return *others, np.ascontiguousarray(values[thing].transpose(2, 0, 1))


def describe(things: Sequence[Thing], dice: Dice) -> Meaning:
    """What fits one or more of the things for sure: half of the time places, where the scene has some to tell of."""
    if dice.chance(_POSITIONS):
        for _ in range(_TRIES):
            meaning = propose(dice.pick(_POSITIONAL), things, dice.below(len(things)), dice)
            try:
                if meaning is not None and meaning.named(things):
                    return meaning
            except Unclear:
                continue
    return _by_looks(things, dice)


def _by_looks(things: Sequence[Thing], dice: Dice) -> Described:
    """One to three looks of one of the things, at times one of them by what others have instead."""
    kind = dice.pick(things).kind
    first, *factors = dice.some(tuple(FACTORS), dice.between(1, 3))
    rest = Described(looks_of(kind, factors))
    others = {getattr(things[i].kind, first) for i in rest.named(things)} - {getattr(kind, first)}
    if others and dice.chance(_NEGATIONS):
        return Described(rest.looks, ((first, dice.pick(sorted(others))),))
    return Described(looks_of(kind, [first, *factors]))


def labelled_batches(numbers: range, seed: int, image_size: int, tokenizer: Tokenizer, batch_size: int,
                     workers: int) -> ds.Dataset:
    """LabelledScenes in order, in batches; a last one that is not full is left out.

    Args:
        workers: processes that draw; 1 is this one.

    Columns: image (B, 3, S, S) float32, as the model takes it; token_ids, token_mask (B, T) int32; labels (B, 7, S, S)
    float32.
    """
    scenes = LabelledScenes(numbers, seed, image_size, tokenizer)

    def items() -> Iterator[tuple[np.ndarray, ...]]:
        jobs = ((scenes, range(start, min(start + _SCENES_AT_ONCE, len(scenes))))
                for start in range(0, len(scenes), _SCENES_AT_ONCE))
        with closing(map_in_order(_draw, jobs, workers)) as chunks:
            for chunk in chunks:
                yield from map(with_labels, chunk)

    data = ds.GeneratorDataset(items, ["image", "token_ids", "token_mask", "labels"], num_parallel_workers=1)
    return data.map(image_transforms(image_size), "image", num_parallel_workers=1).batch(batch_size, drop_remainder=True)


def _draw(job: tuple[LabelledScenes, range]) -> list[tuple[np.ndarray, ...]]:
    scenes, indices = job
    return [scenes.drawn(index) for index in indices]


def _labels(thing: Thing, height: int, width: int) -> list[float]:
    kinds = [values.index(getattr(thing.kind, factor)) for factor, values in FACTORS.items()]
    x, y = thing.centre
    return [*kinds, x / width - 1, y / height - 1]
