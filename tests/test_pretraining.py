"""Pretraining: labels against the scenes themselves, its objective against NumPy in float64, and a run."""
from __future__ import annotations

from collections import Counter
from dataclasses import asdict

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn

import pretrain
from src.config import load_config
from src.data.refshapes.dice import Dice
from src.data.refshapes.drawing import palette
from src.data.refshapes.labels import LabelledScenes, describe, labelled_batches
from src.data.refshapes.meaning import Described
from src.data.refshapes.scene import FACTORS, make_scene
from src.data.tokenizer import Tokenizer
from src.data.transform import prepare_image
from src.loss import PixelContrastiveLoss
from src.model import build_model
from src.training.pretraining import CLASSES, PretrainingObjective
from src.training.step import Objective
from tests.conftest import SMALLEST, assert_close
from tests.expression_reader import read
from tests.refshapes_files import Item

VOCABULARY = "assets/refshapes-vocab.txt"


def scenes(numbers: range, size: int = 32) -> LabelledScenes:
    return LabelledScenes(numbers, 3, size, Tokenizer(VOCABULARY, 24))


def test_labels_are_what_is_seen():
    size = 32
    assert len(scenes(range(5, 8))) == 3
    for number, (image, _, _, labels) in zip(range(5, 8), (scenes(range(5, 8))[i] for i in range(3))):
        scene = make_scene(Dice(3, 4, number), (3, 8), unseen_pairs=False)
        height, width = scene.labels.shape
        assert (image == palette()[scene.image]).all() and labels.shape == (7, size, size)
        for i in range(size):
            for j in range(size):
                index = scene.labels[int(i / size * height), int(j / size * width)]
                if index < 0:
                    assert labels[:, i, j].tolist() == [0, -1, -1, -1, -1, 0, 0]
                    continue
                thing = scene.things[index]
                kinds = [values[int(labels[1 + k, i, j])] for k, values in enumerate(FACTORS.values())]
                assert kinds == [getattr(thing.kind, factor) for factor in FACTORS]
                left, top, box_width, box_height = thing.box
                assert_close(labels[5:, i, j], [(left + box_width / 2) / width * 2 - 1,
                                                (top + box_height / 2) / height * 2 - 1], 1e-6)


def test_masks_are_all_that_the_words_fit():
    """Words, read back by a grammar of its own, and looks and places that are seen."""
    tokenizer, negations, several, forms = Tokenizer(VOCABULARY, 24), 0, 0, Counter()
    for index in range(120):
        _, token_ids, token_mask, labels = scenes(range(120))[index]
        scene = make_scene(Dice(3, 4, index), (3, 8), unseen_pairs=False)
        words = tokenizer._tokenizer.decode(token_ids[:token_mask.sum()].tolist())
        things = []
        for i, thing in enumerate(scene.things):
            left, top, width, height = thing.box
            things.append(Item(i, asdict(thing.kind), None, (left, top, left + width, top + height),
                               (left + width / 2, top + height / 2)))
        (form, named), = read(words, things)
        forms[form] += 1
        expected = np.isin(scene.labels, [item.ann_id for item in named])
        height, width = expected.shape
        y, x = np.arange(32) * height // 32, np.arange(32) * width // 32
        np.testing.assert_array_equal(labels[0] > 0, expected[y][:, x])
        negations += " not " in words or " but " in words or "without" in words
        several += len(named) > 1
    assert negations > 3 and several > 40
    assert min(forms[each] for each in ("plain", "extreme", "ordinal", "relation", "closest", "ranked relation")) > 0


def test_half_of_the_descriptions_are_by_looks_and_all_fit_something():
    dice, by_looks = Dice(1, 2), 0
    things = make_scene(dice, (3, 8), unseen_pairs=False).things
    for _ in range(400):
        meaning = describe(things, dice)
        assert meaning.named(things)
        if isinstance(meaning, Described):
            by_looks += 1
            said = [factor for factor, _ in meaning.looks + meaning.without]
            assert len(said) == len(set(said)) in (1, 2, 3)
    assert 160 < by_looks < 240


def test_scenes_are_in_no_split_and_the_same_each_time():
    first, again = scenes(range(1))[0], scenes(range(3))[0]
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    train = [make_scene(Dice(3, 0, number), (3, 8), unseen_pairs=False) for number in range(20)]
    assert not any(palette()[scene.image].tobytes() == first[0].tobytes() for scene in train)


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_as_the_model_takes_them(workers):
    tokenizer = Tokenizer(VOCABULARY, 24)
    data = labelled_batches(range(6), 3, 64, tokenizer, 4, workers)
    batches = list(data.create_dict_iterator(num_epochs=1, output_numpy=True))
    assert len(batches) == 1
    for i in range(4):
        image, token_ids, token_mask, labels = scenes(range(6), 64)[i]
        expected = {"image": prepare_image(image, 64), "token_ids": token_ids, "token_mask": token_mask, "labels": labels}
        for name, value in expected.items():
            np.testing.assert_array_equal(batches[0][name][i], value)


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
    labels = np.stack([random.integers(2, size=(2, 16, 16)), random.integers(-1, 8, (2, 16, 16)),
                       random.integers(8, size=(2, 16, 16)), random.integers(2, size=(2, 16, 16)),
                       random.integers(3, size=(2, 16, 16)), *random.uniform(-1, 1, (2, 2, 16, 16))], 1)
    labels[:, 2:5] = np.where(labels[:, 1:2] < 0, -1, labels[:, 2:5])
    labels = labels.astype(np.float32)
    logits, features = image[:, 0].astype(np.float64), image[:, 1:, ::4, ::4].astype(np.float64)
    mask, small = labels[:, 0], labels[:, 1:, 2::4, 2::4]
    segmentation = (np.log1p(np.exp(logits)) - mask * logits).mean()
    kernel, bias = (weights[f"label_head.{name}"] for name in ("weight", "bias"))
    found = np.einsum("bchw,kc->bkhw", features, kernel[..., 0, 0]) + bias[:, None, None]
    here = small[:, 0] >= 0
    seen, first = np.abs(found[:, -2:] - small[:, 4:]).sum(1)[here].sum() / (here.sum() + 1), 0
    for factor, size in enumerate(CLASSES):
        part = found[:, first:first + size]
        likelihood = part - np.log(np.exp(part).sum(1, keepdims=True))
        target = np.maximum(small[:, factor].astype(int) + (factor == 0), 0)
        error = -np.take_along_axis(likelihood, target[:, None], 1)[:, 0]
        seen += error[here].sum() / (here.sum() + 1) + (error.mean() if factor == 0 else 0)
        first += size
    auxiliary = float(contrast(Tensor(features.astype(np.float32)), Tensor(mask)))
    words = Tensor(np.ones((2, 3), np.int32))
    got = [float(each) for each in objective.cell(Tensor(image), words, words, Tensor(labels))]
    assert_close(np.array(got), [segmentation + weight * auxiliary + 0.1 * seen, segmentation, seen], 1e-5)


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("pretraining") / "config.yaml"
    load_config(overrides={**SMALLEST, "vocab_file": VOCABULARY, "bert_vocab_size": 227, "dataset": "refshapes",
                           "max_tokens": 24, "bert_max_positions": 24, "batch_size": 4, "learning_rate": 1e-3,
                           "end_learning_rate": 1e-4, "decay_epochs": 1, "epochs": 1, "swin_drop_path_rate": 0.0,
                           "bert_dropout": 0.0}).save(path)
    return path


def test_a_checkpoint_to_start_from(config_file, tmp_path, capsys):
    output = tmp_path / "start.ckpt"
    assert pretrain.main(["--config", str(config_file), "--output", str(output), "--scenes", "43"]) == 0
    said = capsys.readouterr().out
    assert "held out: oIoU of masks 0." in said and "shape 0." in said and str(output) in said
    saved = mindspore.load_checkpoint(str(output))
    mindspore.set_seed(42)
    np.random.seed(42)
    start = {name: each.asnumpy() for name, each in build_model(load_config(config_file)).parameters_dict().items()}
    assert set(saved) == set(start)
    changed = {name.split(".")[0] for name, value in start.items() if np.abs(saved[name].asnumpy() - value).max() > 1e-4}
    assert changed == {name.split(".")[0] for name in start}
    further = tmp_path / "further.ckpt"
    assert pretrain.main(["--config", str(config_file), "--output", str(further), "--scenes", "43", "--init_checkpoint",
                          str(output), "--learning_rate", "1e-12", "--end_learning_rate", "0"]) == 0
    for name, each in mindspore.load_checkpoint(str(further)).items():
        if "moving" not in name:
            assert_close(each.asnumpy(), saved[name].asnumpy(), 1e-6)


@pytest.mark.parametrize(("more", "said"), [
    (["--scenes", "3"], "fewer than batch_size 4"),
    (["--scenes", "8", "--learning_rate", "1e30", "--aux_loss_weight", "0"], "not finite")])
def test_mistakes_are_one_line_and_leave_nothing(config_file, more, said, tmp_path, capsys):
    assert pretrain.main(["--config", str(config_file), "--output", str(tmp_path / "start.ckpt"), *more]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not list(tmp_path.iterdir())
