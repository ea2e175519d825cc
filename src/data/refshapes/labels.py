"""RefShapes' scenes with what is to be seen at each place of them, to pretrain an image encoder on."""
from __future__ import annotations

import numpy as np
from mindspore import dataset as ds

from src.data.refshapes.dice import Dice
from src.data.refshapes.drawing import palette
from src.data.refshapes.scene import FACTORS, make_scene
from src.data.transform import image_transforms

_STREAM = 4  # of scenes; those of the four splits are 0 to 3
_OBJECTS = (3, 8)  # as in train


class LabelledScenes:
    """Scenes of train's kind that are in no split, made as they are asked for.

    Args:
        numbers: which of the scenes that follow from the seed.
        seed: of all of them.
        side: height and width of the labels.

    Item: image (h, w, 3) uint8, RGB; labels (6, side, side) float32: where a thing is seen, the places of its shape,
    colour, size and pattern in FACTORS, and x and y of its centre, from -1 to 1 across the image; elsewhere -1, -1, -1,
    -1, 0, 0.
    """

    def __init__(self, numbers: range, seed: int, side: int):
        self._numbers, self._seed, self._side = numbers, seed, side
        self._palette = palette()

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        scene = make_scene(Dice(self._seed, _STREAM, self._numbers[index]), _OBJECTS, unseen_pairs=False)
        height, width = scene.labels.shape
        # The pixels in the middle of what each label stands for.
        y, x = (((2 * np.arange(self._side) + 1) * size // (2 * self._side)) for size in (height, width))
        seen = scene.labels[y][:, x]
        values = np.array([self._labels(thing, height, width) for thing in scene.things] + [[-1] * 4 + [0, 0]])
        return self._palette[scene.image], values[seen].transpose(2, 0, 1).astype(np.float32)

    @staticmethod
    def _labels(thing, height: int, width: int) -> list[float]:
        kinds = [values.index(getattr(thing.kind, factor)) for factor, values in FACTORS.items()]
        x, y = thing.centre
        return [*kinds, x / width - 1, y / height - 1]


def labelled_batches(numbers: range, seed: int, image_size: int, batch_size: int) -> ds.Dataset:
    """LabelledScenes in order, in batches; a last one that is not full is left out.

    Columns: image (B, 3, S, S) float32, as the model takes it; labels (B, 6, S/4, S/4) float32.
    """
    data = ds.GeneratorDataset(LabelledScenes(numbers, seed, image_size // 4), ["image", "labels"], shuffle=False,
                               num_parallel_workers=1)
    return data.map(image_transforms(image_size), "image", num_parallel_workers=1).batch(batch_size, drop_remainder=True)
