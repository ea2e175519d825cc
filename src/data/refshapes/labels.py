"""RefShapes' scenes with what is to be seen at each place of them, and descriptions, to pretrain a small model on."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mindspore import dataset as ds

from src.data.refshapes.dice import Dice
from src.data.refshapes.drawing import palette
from src.data.refshapes.meaning import Described, looks_of
from src.data.refshapes.scene import FACTORS, Thing, make_scene
from src.data.refshapes.wording import word
from src.data.tokenizer import Tokenizer
from src.data.transform import image_transforms

_STREAM = 4  # of scenes; those of the four splits are 0 to 3
_OBJECTS = (3, 8)  # as in train
_NEGATIONS = 30  # per cent of the descriptions that could have one


class LabelledScenes:
    """Scenes of train's kind that are in no split, made as they are asked for.

    Args:
        numbers: which of the scenes that follow from the seed.
        seed: of all of them.
        size: S, side of the labels.
        tokenizer: of the descriptions.

    Item: image (h, w, 3) uint8, RGB; token_ids, token_mask (T,) int32, of a description by looks alone, which fits one
    thing or several; labels (7, S, S) float32, nearest neighbour: 1 on the things that it fits, else 0; then, where a
    thing is seen, the places of its shape, colour, size and pattern in FACTORS, and x and y of its centre, from -1 to 1
    across the image; elsewhere -1, -1, -1, -1, 0, 0.
    """

    def __init__(self, numbers: range, seed: int, size: int, tokenizer: Tokenizer):
        self._numbers, self._seed, self._size, self._tokenizer = numbers, seed, size, tokenizer
        self._palette = palette()

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        dice = Dice(self._seed, _STREAM, self._numbers[index])
        scene = make_scene(dice, _OBJECTS, unseen_pairs=False)
        meaning = describe(scene.things, dice)
        token_ids, token_mask = self._tokenizer.encode(word(meaning, dice))
        height, width = scene.labels.shape
        y, x = (np.arange(self._size) * side // self._size for side in (height, width))
        values = np.array([[meaning.fits(thing.kind), *_labels(thing, height, width)] for thing in scene.things]
                          + [[0, -1, -1, -1, -1, 0, 0]], np.float32)
        labels = values[scene.labels[y][:, x]].transpose(2, 0, 1)
        return self._palette[scene.image], token_ids, token_mask, np.ascontiguousarray(labels)


def describe(things: Sequence[Thing], dice: Dice) -> Described:
    """A description by one to three looks of one of the things, at times one of them by what others have instead."""
    kind = dice.pick(things).kind
    first, *factors = dice.some(tuple(FACTORS), dice.between(1, 3))
    rest = Described(looks_of(kind, factors))
    others = {getattr(things[i].kind, first) for i in rest.named(things)} - {getattr(kind, first)}
    if others and dice.chance(_NEGATIONS):
        return Described(rest.looks, ((first, dice.pick(sorted(others))),))
    return Described(looks_of(kind, [first, *factors]))


def labelled_batches(numbers: range, seed: int, image_size: int, tokenizer: Tokenizer, batch_size: int) -> ds.Dataset:
    """LabelledScenes in order, in batches; a last one that is not full is left out.

    Columns: image (B, 3, S, S) float32, as the model takes it; token_ids, token_mask (B, T) int32; labels (B, 7, S, S)
    float32.
    """
    data = ds.GeneratorDataset(LabelledScenes(numbers, seed, image_size, tokenizer),
                               ["image", "token_ids", "token_mask", "labels"], shuffle=False, num_parallel_workers=1)
    return data.map(image_transforms(image_size), "image", num_parallel_workers=1).batch(batch_size, drop_remainder=True)


def _labels(thing: Thing, height: int, width: int) -> list[float]:
    kinds = [values.index(getattr(thing.kind, factor)) for factor, values in FACTORS.items()]
    x, y = thing.centre
    return [*kinds, x / width - 1, y / height - 1]
