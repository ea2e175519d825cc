"""Pretraining: its objective against NumPy in float64, and runs of it."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import islice
from types import SimpleNamespace

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

import pretrain
from coupalign import devices
from coupalign.config import load_config
from coupalign.loss import PixelContrastiveLoss
from coupalign.model import build_model
from coupalign.training import pretraining
from coupalign.training.pretraining import PretrainingObjective
from coupalign.training.pretraining_labels import labelled_batches
from coupalign.training.step import Objective, StepResult
from tests.conftest import SMALLEST, assert_close
from tests.test_run_logs import read_events
from tests.tiny_model import TinyModel

SAVE_WEIGHTS = pretraining.save_weights


class Features(nn.Cell):
    """Stands for a model: its logits are a channel of the image, and its Y_1 the other channels at 1/4 of the size."""

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
    inputs = (Tensor(image), words, words, Tensor(mask), Tensor(small), Tensor(small[:, :8]))
    got = [float(each) for each in objective.cell(*inputs)]
    assert_close(np.array(got), [segmentation + weight * auxiliary + 0.1 * seen, segmentation, seen], 1e-5)


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("pretraining") / "config.yaml"
    load_config(
        overrides={
            **SMALLEST,
            "vocab_file": "assets/refshapes-vocab.txt",
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
            "tracker": "none",
        }
    ).save(path)
    return path


def pretrained(config_file, output, scenes: int, *more: object):
    """Status and parameters by name."""
    arguments = ["--config", config_file, "--output", output, "--scenes", scenes, *more]
    status = pretrain.main([str(each) for each in arguments])
    return status, {name: each.asnumpy() for name, each in mindspore.load_checkpoint(str(output)).items()}


@pytest.mark.slow
def test_a_checkpoint_to_start_from(config_file, tmp_path, monkeypatch, capsys):
    """Every module learns, except the existence output, since something fits every description."""
    monkeypatch.setattr(pretraining, "HELD_OUT", 16)
    more = ["--existence", "true", "--query_anchors", "true", "--object_loss_weight", 1, "--choice_loss_weight", 0.5]
    status, saved = pretrained(config_file, tmp_path / "start.ckpt", 43, *more)
    said = capsys.readouterr().out
    assert status == 0 and "oIoU of masks 0." in said and "rank 0." in said and str(tmp_path / "start.ckpt") in said
    mindspore.set_seed(42)
    np.random.seed(42)
    model = build_model(load_config(config_file, {"existence": True, "query_anchors": True}))
    start = {name: each.asnumpy() for name, each in model.parameters_dict().items()}
    assert set(saved) == set(start)
    changed = {name.split(".")[0] for name, value in start.items() if np.abs(saved[name] - value).max() > 1e-4}
    assert changed | {"existence"} == {name.split(".")[0] for name in start}
    for name in start:
        if name.startswith("existence."):
            np.testing.assert_array_equal(saved[name], start[name])


class TinyPretrained(TinyModel):
    """TinyModel with Y_1 at a quarter of the image's size."""

    def training_outputs(self, image: Tensor, token_ids: Tensor, token_mask: Tensor):
        logits, pixels = super().training_outputs(image, token_ids, token_mask)
        batch, dim, side, _ = pixels.shape
        pixels = ops.broadcast_to(pixels.reshape(batch, dim, side, 1, side, 1), (batch, dim, side, 2, side, 2))
        return logits, pixels.reshape(batch, dim, 2 * side, 2 * side)


@pytest.mark.slow
def test_one_that_is_stopped_leaves_what_it_has_learnt_and_another_starts_from_it(
    config_file, tmp_path, monkeypatch, capsys
):
    def two_batches(*arguments):
        yield from islice(labelled_batches(*arguments), 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(pretraining, "build_model", lambda _: TinyPretrained())
    monkeypatch.setattr(pretraining, "HELD_OUT", 16)
    constant = ["--seg_head_dim", 6, "--end_learning_rate", "9.99999e-4", "--warmup_steps", 0]
    status, whole = pretrained(config_file, tmp_path / "whole.ckpt", 8, *constant)
    assert status == 0
    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "labelled_batches", two_batches)
        status, stopped = pretrained(config_file, tmp_path / "stopped.ckpt", 40, "--checkpoint_every", 2, *constant)
    assert status == 130 and set(stopped) == set(whole)
    start = ["--seg_head_dim", 6, "--init_checkpoint", tmp_path / "stopped.ckpt"]
    status, further = pretrained(
        config_file, tmp_path / "b.ckpt", 8, *start, "--learning_rate", "1e-12", "--end_learning_rate", 0
    )
    assert status == 0 and str(tmp_path / "stopped.ckpt") in capsys.readouterr().out
    for name, value in whole.items():
        assert_close(stopped[name], value, 1e-5)
        if "moving" not in name:
            assert_close(further[name], value, 1e-5)


class RecordingStep:
    """In place of TrainStep: records the scenes of each micro batch and whether weights are averaged when saved."""

    def __init__(self):
        self.scenes, self.inside, self.objective = [], False, SimpleNamespace(objective=None)
        self.loss_names = ("loss", "segmentation_loss", "label_loss")

    def set_train(self):
        return self

    def update(self, batches, seed, number, first_samples):
        parts = [batch["mask"].asnumpy() for batch in batches]
        self.scenes.append(dict(zip(first_samples, parts, strict=True)))
        return StepResult(Tensor([0.5] * 3), Tensor(0.1), Tensor(True))

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
    record_steps(config_file, tmp_path / "start.ckpt", monkeypatch, tracker="tensorboard")
    shown, _ = read_events(tmp_path / "start.tensorboard")
    assert sorted(shown["pretraining/label_loss"]) == [1, 2, 3, 4]


def test_a_run_that_diverges_ends_in_one_line_and_leaves_nothing(config_file, tmp_path, monkeypatch, capsys):
    step = RecordingStep()
    step.update = lambda *_: StepResult(Tensor([np.nan] * 3), Tensor(0.1), Tensor(False))
    monkeypatch.setattr(pretraining, "build_model", lambda _: nn.Dense(2, 2))
    monkeypatch.setattr(pretraining, "build_step", lambda *_: step)
    arguments = ["--config", str(config_file), "--output", str(tmp_path / "start.ckpt"), "--scenes", "8"]
    assert pretrain.main(arguments) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "not finite" in line and "lower learning_rate" in line
    assert not list(tmp_path.iterdir())
