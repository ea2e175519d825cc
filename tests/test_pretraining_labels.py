"""Labels of pretraining against the scenes themselves and against descriptions read back."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict

import numpy as np
import pytest

from coupalign.data.tokenizer import Tokenizer
from coupalign.data.transform import prepare_image
from coupalign.data.workers import map_in_order
from coupalign.errors import UserError
from coupalign.files import find_file
from coupalign.refshapes.dice import Dice
from coupalign.refshapes.drawing import palette
from coupalign.refshapes.expressions import make_expressions
from coupalign.refshapes.meaning import Closest, Described, Ranked, Related, parts_of
from coupalign.refshapes.scene import FACTORS, Kind, Thing, make_scene
from coupalign.training import pretraining_labels as labelling
from coupalign.training.pretraining_labels import COLUMNS, LabelledScenes, _labels, describe, labelled_batches
from tests.conftest import assert_close
from tests.expression_reader import read
from tests.refshapes_files import Item

VOCABULARY = "assets/refshapes-vocab.txt"


def scenes(numbers: range, size: int = 32) -> LabelledScenes:
    return LabelledScenes(numbers, 3, size, Tokenizer(VOCABULARY, 24))


def test_labels_are_what_is_seen():
    size = 32
    assert len(scenes(range(5, 8))) == 3
    for number, (image, *_, labels, objects) in zip(range(5, 8), (scenes(range(5, 8), 4 * size)[i] for i in range(3))):
        scene = make_scene(Dice(3, 4, number), (3, 8), unseen_pairs=False)
        height, width = scene.labels.shape
        np.testing.assert_array_equal(image, prepare_image(palette()[scene.image], 4 * size))
        assert labels.shape == (9, size, size) and objects.shape == (8, size, size)
        for i in range(size):
            for j in range(size):
                index = scene.labels[int((i + 0.5) / size * height), int((j + 0.5) / size * width)]
                assert objects[:, i, j].tolist() == [float(index == k) for k in range(8)]
                if index < 0:
                    assert labels[:, i, j].tolist() == [-1, -1, -1, -1, -1, -1, -1, 0, 0]
                    continue
                thing = scene.things[index]
                kinds = [values[int(labels[k, i, j])] for k, values in enumerate(FACTORS.values())]
                assert kinds == [getattr(thing.kind, factor) for factor in FACTORS]
                left, top, box_width, box_height = thing.box
                centre = (left + box_width / 2) / width, (top + box_height / 2) / height
                assert_close(labels[7:, i, j], np.array(centre) * 2 - 1, 1e-6)


def item_of(index: int, thing: Thing) -> Item:
    left, top, width, height = thing.box
    box, centre = (left, top, left + width, top + height), (left + width / 2, top + height / 2)
    return Item(index, asdict(thing.kind), None, box, centre)


def test_masks_are_all_that_the_words_fit():
    """Words, read back by a grammar of its own, and looks and places that are seen."""
    pieces, negations, several, forms = find_file(VOCABULARY).read_text().split("\n"), 0, 0, Counter()
    for index in range(120):
        _, token_ids, token_mask, mask, labels, _ = scenes(range(120))[index]
        scene = make_scene(Dice(3, 4, index), (3, 8), unseen_pairs=False)
        words = " ".join(pieces[token] for token in token_ids[1 : token_mask.sum() - 1]).replace(" ##", "")
        ((form, named),) = read(words, [item_of(i, thing) for i, thing in enumerate(scene.things)])
        forms[form] += 1
        expected = np.isin(scene.labels, [item.ann_id for item in named])
        height, width = expected.shape
        y, x = np.arange(32) * height // 32, np.arange(32) * width // 32
        np.testing.assert_array_equal(mask, expected[y][:, x])
        assert (labels[4][mask[2::4, 2::4] > 0] == 1).all(), "what is meant is of the group"
        negations += " not " in words or " but " in words or "without" in words
        several += len(named) > 1
    assert negations > 3 and several > 20
    assert min(forms[each] for each in ("plain", "extreme", "ordinal", "relation", "closest", "ranked relation")) > 0


# Four rings in a row, the third of them small, and a star above all.
ROW = [
    Thing(Kind("ring", "red", size, "solid"), (left, 80, 20, 20))
    for left, size in ((20, "large"), (50, "large"), (80, "small"), (110, "large"))
]
ROW.append(Thing(Kind("star", "red", "large", "solid"), (40, 10, 20, 20)))
RINGS, LARGE_RINGS = Described((("shape", "ring"),)), Described((("shape", "ring"), ("size", "large")))
STAR = Described((("shape", "star"),))


@pytest.mark.parametrize(
    ("meaning", "group", "anchors", "order"),
    [
        (Described((("size", "large"),), (("shape", "star"),)), [0, 1, 3], [], []),
        (Ranked(LARGE_RINGS, "right", 2), [0, 1, 3], [], [3, 1, 0]),
        (Related(RINGS, "bottom", STAR), [0, 1, 2, 3], [4], []),
        (Related(RINGS, "right", Ranked(LARGE_RINGS, "left", 2)), [0, 1, 2, 3], [1], [0, 1, 3]),
        (Ranked(Related(RINGS, "right", Described((("size", "small"),))), "left", 1), [0, 1, 2, 3], [2], [3]),
        (Closest(RINGS, STAR), [0, 1, 2, 3], [4], []),
    ],
)
def test_parts_of_a_description(meaning, group, anchors, order):
    assert parts_of(meaning, ROW) == (group, anchors, order)


def test_labels_tell_the_parts():
    """Of seven rings in a row, three are beyond rank 4; with a star to start from, none has a rank."""
    row = [Thing(Kind("ring", "red", "small", "solid"), (18 * i, 80, 16, 16)) for i in range(7)]
    meaning = Ranked(RINGS, "right", 2)
    rows = list(_labels([*row, ROW[4]], meaning, 128, 144))
    assert [each[4:7] for each in rows] == [[1, 0, rank] for rank in (5, 5, 5, 4, 3, 2, 1)] + [[0, 0, 0]]
    rows = list(_labels(ROW, Related(RINGS, "bottom", STAR), 128, 144))
    assert [each[4:7] for each in rows] == [[1, 0, 0]] * 4 + [[0, 1, 0]]


def test_descriptions_all_fit_something_and_half_of_them_are_expressions_of_train(monkeypatch):
    dice, made = Dice(1, 2), []
    scene = make_scene(dice, (3, 8), unseen_pairs=False)
    monkeypatch.setattr(labelling, "make_expressions", lambda *given: made.append(make_expressions(*given)) or made[-1])
    others = []
    for _ in range(800):
        asked = len(made)
        meaning = describe(scene, dice)
        assert meaning.named(scene.things)
        if len(made) > asked:
            assert meaning == made[-1][0].meaning
        else:
            others.append(meaning)
    assert 340 < len(others) < 460
    by_looks = [meaning for meaning in others if isinstance(meaning, Described)]
    assert 0.18 < len(by_looks) / len(others) < 0.32
    for meaning in by_looks:
        said = [factor for factor, _ in meaning.looks + meaning.without]
        assert len(said) == len(set(said)) in (1, 2, 3)


def test_scenes_are_in_no_split_and_the_same_each_time():
    first, again = scenes(range(1))[0], scenes(range(3))[0]
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    train = [make_scene(Dice(3, 0, number), (3, 8), unseen_pairs=False) for number in range(20)]
    assert not any(palette()[scene.image].tobytes() == first[0].tobytes() for scene in train)


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_as_the_model_takes_them(workers):
    batches = list(labelled_batches(scenes(range(6), 64), 4, workers))
    assert len(batches) == 1
    for i in range(4):
        for name, value in zip(COLUMNS, scenes(range(6), 64)[i], strict=True):
            np.testing.assert_array_equal(batches[0][name][i], value)


def test_a_process_that_is_killed_ends_it_with_a_message():
    with pytest.raises(UserError, match="was killed.*fewer processes"):
        list(map_in_order(os._exit, [9], 2))
