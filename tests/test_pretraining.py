"""Pretraining: labels against the scenes themselves, its objective against NumPy in float64, and a run."""
from __future__ import annotations

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn

import pretrain
from src.config import load_config
from src.data.refshapes.dice import Dice
from src.data.refshapes.drawing import palette
from src.data.refshapes.labels import LabelledScenes, labelled_batches
from src.data.refshapes.scene import FACTORS, make_scene
from src.data.transform import prepare_image
from src.model import build_model
from src.training.pretraining import CLASSES, LabelObjective
from tests.conftest import SMALLEST, assert_close


def test_labels_are_what_is_seen():
    side = 32
    scenes = LabelledScenes(range(5, 8), 3, side)
    assert len(scenes) == 3
    for number, (image, labels) in zip(range(5, 8), (scenes[i] for i in range(3))):
        scene = make_scene(Dice(3, 4, number), (3, 8), unseen_pairs=False)
        height, width = scene.labels.shape
        assert image.shape == (height, width, 3) and labels.shape == (6, side, side)
        for i in range(side):
            for j in range(side):
                index = scene.labels[int((i + 0.5) / side * height), int((j + 0.5) / side * width)]
                if index < 0:
                    assert labels[:, i, j].tolist() == [-1, -1, -1, -1, 0, 0]
                    continue
                thing = scene.things[index]
                kinds = [values[int(labels[k, i, j])] for k, values in enumerate(FACTORS.values())]
                assert kinds == [getattr(thing.kind, factor) for factor in FACTORS]
                left, top, box_width, box_height = thing.box
                assert_close(labels[4:, i, j], [(left + box_width / 2) / width * 2 - 1,
                                                (top + box_height / 2) / height * 2 - 1], 1e-6)


def test_scenes_are_in_no_split_and_the_same_each_time():
    image, labels = LabelledScenes(range(1), 1, 8)[0]
    again = LabelledScenes(range(3), 1, 8)[0]
    assert (image == again[0]).all() and (labels == again[1]).all()
    train = [make_scene(Dice(1, 0, number), (3, 8), unseen_pairs=False) for number in range(20)]
    assert not any(palette()[scene.image].tobytes() == image.tobytes() for scene in train)


class Features(nn.Cell):
    """Stands for a model: its Y_1 is the image."""

    def training_outputs(self, image: Tensor, token_ids: Tensor, token_mask: Tensor):
        return None, image


def test_the_objective_is_cross_entropies_and_a_distance(random_cell):
    random = np.random.default_rng(0)
    objective, weights, _ = random_cell(LabelObjective(Features(), 5), inputs=(1,))
    y = random.standard_normal((2, 5, 4, 4)).astype(np.float32)
    labels = np.stack([random.integers(-1, 8, (2, 4, 4)), random.integers(8, size=(2, 4, 4)),
                       random.integers(2, size=(2, 4, 4)), random.integers(3, size=(2, 4, 4)),
                       *random.uniform(-1, 1, (2, 2, 4, 4))], 1)
    here = labels[:, 0] >= 0
    labels[:, 1:4][~here[:, None].repeat(3, 1)] = -1
    labels = labels.astype(np.float32)
    weight, bias = (weights[f"label_head.{name}"] for name in ("weight", "bias"))
    found = np.einsum("bchw,kc->bkhw", y, weight[..., 0, 0]) + bias[:, None, None]
    entropies, first = 0, 0
    for factor, size in enumerate(CLASSES):
        logits = found[:, first:first + size]
        likelihood = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        target = labels[:, factor].astype(int) + (factor == 0)
        error = -np.take_along_axis(likelihood, np.maximum(target, 0)[:, None], 1)[:, 0]
        entropies += error[here].sum() / (here.sum() + 1) + (error.mean() if factor == 0 else 0)
        first += size
    distance = np.abs(found[:, first:] - labels[:, 4:]).sum(1)[here].sum() / (here.sum() + 1)
    words = Tensor(np.ones((2, 3), np.int32))
    got = objective.cell(Tensor(y), words, words, Tensor(labels))
    assert_close(np.array([float(each) for each in got]), [entropies + distance, entropies, distance], 1e-5)


@pytest.fixture
def arguments(tmp_path):
    config = {**SMALLEST, "vocab_file": "assets/refshapes-vocab.txt", "bert_vocab_size": 227, "dataset": "refshapes",
              "batch_size": 4, "learning_rate": 1e-3, "end_learning_rate": 1e-4, "decay_epochs": 1, "epochs": 1,
              "swin_drop_path_rate": 0.0, "bert_dropout": 0.0}
    load_config(overrides=config).save(tmp_path / "config.yaml")
    return ["--config", str(tmp_path / "config.yaml"), "--output", str(tmp_path / "start.ckpt")]


def test_a_checkpoint_to_start_from(arguments, tmp_path, capsys):
    assert pretrain.main([*arguments, "--scenes", "43"]) == 0
    said = capsys.readouterr().out
    assert "held out: shape 0." in said and "written to" in said
    saved = mindspore.load_checkpoint(str(tmp_path / "start.ckpt"))
    mindspore.set_seed(42)
    np.random.seed(42)
    model = build_model(load_config(tmp_path / "config.yaml"))
    start = {name: each.asnumpy() for name, each in model.parameters_dict().items()}
    assert set(saved) == set(start)
    changed = {name.split(".")[0] for name, value in start.items()
               if np.abs(saved[name].asnumpy() - value).max() > 1e-4}
    assert changed == {"image_encoder", "text_encoder", "wpa", "cross_attention", "seg_head"}


@pytest.mark.parametrize(("more", "said"), [
    (["--scenes", "3"], "fewer than batch_size 4"), (["--scenes", "8", "--learning_rate", "1e30"], "not finite")])
def test_mistakes_are_one_line_and_leave_nothing(arguments, more, said, tmp_path, capsys):
    assert pretrain.main([*arguments, *more]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_batches_are_images_as_the_model_takes_them():
    batches = list(labelled_batches(range(6), 1, 64, 4).create_dict_iterator(num_epochs=1, output_numpy=True))
    assert len(batches) == 1
    scenes = LabelledScenes(range(6), 1, 16)
    for i in range(4):
        np.testing.assert_array_equal(batches[0]["image"][i], prepare_image(scenes[i][0], 64))
        np.testing.assert_array_equal(batches[0]["labels"][i], scenes[i][1])
