"""Pretraining: labels against the scenes themselves, its objective against NumPy in float64, and a run."""

from __future__ import annotations

import os
import re
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from types import SimpleNamespace

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn

import pretrain
from coupalign import devices
from coupalign.config import load_config
from coupalign.data.tokenizer import Tokenizer
from coupalign.data.transform import prepare_image
from coupalign.data.workers import map_in_order
from coupalign.errors import UserError
from coupalign.loss import PixelContrastiveLoss
from coupalign.model import build_model
from coupalign.refshapes.dice import Dice
from coupalign.refshapes.drawing import palette
from coupalign.refshapes.expressions import make_expressions
from coupalign.refshapes.meaning import Closest, Described, Ranked, Related, parts_of
from coupalign.refshapes.scene import FACTORS, Kind, Thing, make_scene
from coupalign.training import pretraining
from coupalign.training import pretraining_labels as labelling
from coupalign.training.pretraining import PretrainingObjective
from coupalign.training.pretraining_labels import COLUMNS, LabelledScenes, _labels, describe, labelled_batches
from coupalign.training.step import Objective, StepResult
from tests.conftest import SMALLEST, assert_close
from tests.expression_reader import read
from tests.refshapes_files import Item
from tests.test_run_logs import read_events

VOCABULARY = "assets/refshapes-vocab.txt"
SAVE_WEIGHTS = pretraining.save_weights


def scenes(numbers: range, size: int = 32) -> LabelledScenes:
    return LabelledScenes(numbers, 3, size, Tokenizer(VOCABULARY, 24))


def test_labels_are_what_is_seen():
    size = 32
    assert len(scenes(range(5, 8))) == 3
    for number, (image, *_, labels) in zip(range(5, 8), (scenes(range(5, 8), 4 * size)[i] for i in range(3))):
        scene = make_scene(Dice(3, 4, number), (3, 8), unseen_pairs=False)
        height, width = scene.labels.shape
        np.testing.assert_array_equal(image, prepare_image(palette()[scene.image], 4 * size))
        assert labels.shape == (9, size, size)
        for i in range(size):
            for j in range(size):
                index = scene.labels[int((i + 0.5) / size * height), int((j + 0.5) / size * width)]
                if index < 0:
                    assert labels[:, i, j].tolist() == [-1, -1, -1, -1, -1, -1, -1, 0, 0]
                    continue
                thing = scene.things[index]
                kinds = [values[int(labels[k, i, j])] for k, values in enumerate(FACTORS.values())]
                assert kinds == [getattr(thing.kind, factor) for factor in FACTORS]
                left, top, box_width, box_height = thing.box
                assert_close(
                    labels[7:, i, j],
                    [(left + box_width / 2) / width * 2 - 1, (top + box_height / 2) / height * 2 - 1],
                    1e-6,
                )


def test_masks_are_all_that_the_words_fit():
    """Words, read back by a grammar of its own, and looks and places that are seen."""
    tokenizer, negations, several, forms = Tokenizer(VOCABULARY, 24), 0, 0, Counter()
    for index in range(120):
        _, token_ids, token_mask, mask, labels = scenes(range(120))[index]
        scene = make_scene(Dice(3, 4, index), (3, 8), unseen_pairs=False)
        words = tokenizer._tokenizer.decode(token_ids[: token_mask.sum()].tolist())
        things = []
        for i, thing in enumerate(scene.things):
            left, top, width, height = thing.box
            things.append(
                Item(
                    i,
                    asdict(thing.kind),
                    None,
                    (left, top, left + width, top + height),
                    (left + width / 2, top + height / 2),
                )
            )
        ((form, named),) = read(words, things)
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
    assert [each[4:7] for each in rows] == [
        [1, 0, 5],
        [1, 0, 5],
        [1, 0, 5],
        [1, 0, 4],
        [1, 0, 3],
        [1, 0, 2],
        [1, 0, 1],
        [0, 0, 0],
    ]
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


class Features(nn.Cell):
    """Stands for a model: its logits are a channel of the image, and its Y_1 is what else is there at 1/4 of the size."""

    def training_outputs(self, image: Tensor, token_ids: Tensor, token_mask: Tensor):
        return image[:, 0], image[:, 1:, ::4, ::4]


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_objective(random_cell, weight):
    random = np.random.default_rng(0)
    contrast = PixelContrastiveLoss()
    objective, weights, _ = random_cell(PretrainingObjective(Objective(Features(), contrast, weight), 5), inputs=(1,))
    image = random.standard_normal((2, 6, 16, 16)).astype(np.float32)
    mask = random.integers(2, size=(2, 16, 16)).astype(np.float32)
    small = np.stack(
        [
            random.integers(-1, 8, (2, 4, 4)),
            *(random.integers(count, size=(2, 4, 4)) for count in (8, 2, 3, 2, 2, 6)),
            *random.uniform(-1, 1, (2, 2, 4, 4)),
        ],
        1,
    )
    small[:, 1:7] = np.where(small[:, :1] < 0, -1, small[:, 1:7])
    small = small.astype(np.float32)
    logits, features = image[:, 0].astype(np.float64), image[:, 1:, ::4, ::4].astype(np.float64)
    segmentation = (np.log1p(np.exp(logits)) - mask * logits).mean()
    kernel, bias = (weights[f"label_head.{name}"] for name in ("weight", "bias"))
    found = np.einsum("bchw,kc->bkhw", features, kernel[..., 0, 0]) + bias[:, None, None]
    here = small[:, 0] >= 0
    seen, first = np.abs(found[:, -2:] - small[:, 7:]).sum(1)[here].sum() / (here.sum() + 1), 0
    for factor, size in enumerate((9, 8, 2, 3, 2, 2, 6)):
        part = found[:, first : first + size]
        likelihood = part - np.log(np.exp(part).sum(1, keepdims=True))
        target = np.maximum(small[:, factor].astype(int) + (factor == 0), 0)
        error = -np.take_along_axis(likelihood, target[:, None], 1)[:, 0]
        seen += error[here].sum() / (here.sum() + 1) + (error.mean() if factor == 0 else 0)
        first += size
    auxiliary = float(contrast(Tensor(features.astype(np.float32)), Tensor(mask)))
    words = Tensor(np.ones((2, 3), np.int32))
    got = [float(each) for each in objective.cell(Tensor(image), words, words, Tensor(mask), Tensor(small))]
    assert_close(np.array(got), [segmentation + weight * auxiliary + 0.1 * seen, segmentation, seen], 1e-5)


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("pretraining") / "config.yaml"
    load_config(
        overrides={
            **SMALLEST,
            "vocab_file": VOCABULARY,
            "bert_vocab_size": 227,
            "dataset": "refshapes",
            "max_tokens": 24,
            "bert_max_positions": 24,
            "batch_size": 4,
            "learning_rate": 1e-3,
            "end_learning_rate": 1e-4,
            "decay_epochs": 1,
            "epochs": 1,
            "swin_drop_path_rate": 0.0,
            "bert_dropout": 0.0,
            "tensorboard": False,
        }
    ).save(path)
    return path


@pytest.mark.slow
def test_a_checkpoint_to_start_from(config_file, tmp_path, capsys):
    output = tmp_path / "start.ckpt"
    assert pretrain.main(["--config", str(config_file), "--output", str(output), "--scenes", "43"]) == 0
    said = capsys.readouterr().out
    assert "held out: oIoU of masks 0." in said and "rank 0." in said and str(output) in said
    saved = mindspore.load_checkpoint(str(output))
    mindspore.set_seed(42)
    np.random.seed(42)
    start = {name: each.asnumpy() for name, each in build_model(load_config(config_file)).parameters_dict().items()}
    assert set(saved) == set(start)
    changed = {
        name.split(".")[0] for name, value in start.items() if np.abs(saved[name].asnumpy() - value).max() > 1e-4
    }
    assert changed == {name.split(".")[0] for name in start}
    further = tmp_path / "further.ckpt"
    arguments = ["--config", str(config_file), "--output", str(further), "--scenes", "43"]
    arguments += ["--init_checkpoint", str(output), "--learning_rate", "1e-12", "--end_learning_rate", "0"]
    assert pretrain.main(arguments) == 0
    for name, each in mindspore.load_checkpoint(str(further)).items():
        if "moving" not in name:
            assert_close(each.asnumpy(), saved[name].asnumpy(), 1e-6)


@pytest.mark.slow
def test_one_that_is_stopped_leaves_what_it_has_learnt(config_file, tmp_path, monkeypatch):
    def two_batches(*arguments):
        yield from islice(labelled_batches(*arguments), 2)
        raise KeyboardInterrupt

    def pretrained(output, scenes, *more):
        arguments = ["--config", str(config_file), "--output", str(output), "--scenes", scenes, *more]
        status = pretrain.main([*arguments, "--end_learning_rate", "9.99999e-4", "--warmup_steps", "0"])
        return status, {name: each.asnumpy() for name, each in mindspore.load_checkpoint(str(output)).items()}

    status, whole = pretrained(tmp_path / "whole.ckpt", "8")
    assert status == 0
    monkeypatch.setattr(pretraining, "labelled_batches", two_batches)
    status, stopped = pretrained(tmp_path / "stopped.ckpt", "40", "--checkpoint_every", "2")
    assert status == 130 and set(stopped) == set(whole)
    for name, value in whole.items():
        assert_close(stopped[name], value, 1e-5)


class RecordingStep:
    """In place of TrainStep: records the scenes of each micro batch and whether weights are averaged when saved."""

    def __init__(self):
        self.scenes, self.inside, self.objective = [], False, SimpleNamespace(objective=None)

    def set_train(self):
        return self

    def update(self, batches, seed, number, first_samples):
        parts = [batch["mask"].asnumpy() for batch in batches]
        self.scenes.append(dict(zip(first_samples, parts, strict=True)))
        return StepResult((Tensor(0.5), Tensor(0.5), Tensor(0.5)), Tensor(0.1), Tensor(True))

    @contextmanager
    def averaged(self):
        self.inside = True
        yield
        self.inside = False


def record_steps(config_file, output, monkeypatch, rank=0, ranks=1, **overrides):
    """Pretrains with RecordingStep as rank `rank` of `ranks`; gives its step."""
    step = RecordingStep()
    monkeypatch.setattr(devices, "_ranks", (rank, ranks))
    monkeypatch.setattr(pretraining, "build_model", lambda _: nn.Dense(2, 2))
    monkeypatch.setattr(pretraining, "build_step", lambda *_: step)
    monkeypatch.setattr(pretraining, "_accuracy", lambda *_: step.inside)
    monkeypatch.setattr(pretraining, "save_weights", lambda *given: step.inside and SAVE_WEIGHTS(*given))
    assert pretraining.pretrain(load_config(config_file, overrides), 19, output, progress=False), "averaged weights"
    return step


def test_ranks_and_micro_batches_share_the_scenes(config_file, tmp_path, monkeypatch):
    alone = record_steps(config_file, tmp_path / "alone.ckpt", monkeypatch, batch_size=8).scenes
    shared = [
        record_steps(
            config_file, tmp_path / f"{rank}.ckpt", monkeypatch, rank, 2, batch_size=8, accumulation_steps=2
        ).scenes
        for rank in range(2)
    ]
    for whole, *parts in zip(alone, *shared, strict=True):
        placed = {first: masks for part in parts for first, masks in part.items()}
        assert sorted(placed) == [0, 2, 4, 6]
        np.testing.assert_array_equal(np.concatenate([placed[first] for first in sorted(placed)]), whole[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.ckpt", "alone.ckpt"]  # rank 0 alone writes


def test_losses_are_written_for_tensorboard(config_file, tmp_path, monkeypatch):
    record_steps(config_file, tmp_path / "start.ckpt", monkeypatch, tensorboard=True)
    shown, _ = read_events(tmp_path / "start.tensorboard")
    assert sorted(shown["pretraining/label_loss"]) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--scenes", "3"], "less than batch_size 4"),
        (["--scenes", "8", "--learning_rate", "1e30", "--aux_loss_weight", "0"], "not finite"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(config_file, more, said, tmp_path, capsys):
    assert pretrain.main(["--config", str(config_file), "--output", str(tmp_path / "start.ckpt"), *more]) == 2
    error = capsys.readouterr().err
    assert re.search(said, error) and "Traceback" not in error
    assert not list(tmp_path.iterdir())
