"""Whole trainings: what they learn, what they leave behind, and that they can be repeated to the last digit."""

from __future__ import annotations

import numpy as np
import pytest

from coupalign.checkpoints.loading import load_checkpoint, read_checkpoint
from coupalign.checkpoints.state import read_state
from coupalign.config import load_config
from coupalign.devices import set_up
from coupalign.model import build_model
from coupalign.training import train, trainer
from coupalign.training.step_timer import TIME_COLUMNS
from tests.conftest import assert_close, read_csv, refshapes_config
from tests.test_run_logs import read_events
from tests.tiny_model import TinyModel

pytestmark = pytest.mark.slow
STEPS = 300 // 20


def run_config(tiny_data, directory, **overrides):
    keys = {"epochs": 2, "decay_epochs": 2, "batch_size": 20, "learning_rate": 2e-3, "eval_limit": 8}
    keys |= {"linear_init_std": 0.0, "bert_dropout": 0.1, "swin_drop_path_rate": 0.2, "output_dir": str(directory)}
    return refshapes_config(tiny_data, **{**keys, **overrides})


@pytest.fixture(scope="module")
def trained(tiny_data, tmp_path_factory):
    """A short training of CoupAlign: its configuration and its directory."""
    config = run_config(tiny_data, tmp_path_factory.mktemp("trained") / "run")
    set_up(config.run)
    return config, train(config, progress=False)


@pytest.fixture
def tiny_train(tiny_data, tmp_path, monkeypatch):
    """``tiny_train(name, **overrides)`` trains TinyModel in directory `name`, and gives it."""
    monkeypatch.setattr(trainer, "build_model", lambda _: TinyModel())

    def run(name, **overrides):
        config = run_config(tiny_data, tmp_path / name, aux_loss_weight=0.0, **overrides)
        set_up(config.run)
        return train(config, progress=False)

    return run


def test_a_run_learns_and_says_what_it_did(trained):
    config, directory = trained
    steps, epochs = read_csv(directory / "steps.csv"), read_csv(directory / "curve.csv")
    losses = [float(row["segmentation_loss"]) for row in steps]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    for row in steps:
        expected = float(row["segmentation_loss"]) + config.losses.aux_loss_weight * float(row["auxiliary_loss"])
        assert float(row["loss"]) == pytest.approx(expected, rel=1e-6)
    assert [int(row["step"]) for row in steps] == list(range(1, 2 * STEPS + 1))
    assert [(row["epoch"], float(row["samples"])) for row in epochs] == [("1", 300), ("2", 600)]
    second = [float(row["loss"]) for row in steps[STEPS:]]
    assert float(epochs[1]["loss"]) == pytest.approx(np.mean(second), rel=1e-6)
    assert all(0 <= float(row["oIoU"]) <= 1 for row in epochs)


def test_speed_and_times_agree_and_compiling_is_no_part_of_them(trained):
    config, directory = trained
    shown, _ = read_events(directory / "tensorboard")
    steps = [
        {part: shown[f"time/{part}"][step].simple_value for part in TIME_COLUMNS} for step in range(1, 2 * STEPS + 1)
    ]
    for row, own in zip(read_csv(directory / "curve.csv"), (steps[1:STEPS], steps[STEPS:]), strict=True):
        means = [np.mean([line[part] for line in own]) for part in TIME_COLUMNS]
        assert [float(row[part]) for part in TIME_COLUMNS] == pytest.approx(means, abs=0.01)
        speed = 1e3 * config.training.batch_size / sum(means)
        assert float(row["samples_per_second"]) == pytest.approx(speed, rel=0.01)


def test_a_run_leaves_its_configuration_and_checkpoints_that_load(trained):
    """Their norms have followed the batches."""
    config, directory = trained
    assert load_config(directory / "config.yaml") == config
    model = build_model(config)
    for name in ("best.ckpt", "last.ckpt"):
        load_checkpoint(directory / name, model)
        for each in model.get_parameters():
            assert not each.name.endswith("moving_mean") or np.abs(each.asnumpy()).max() > 1e-3, each.name


def test_the_same_seed_gives_the_same_curve_to_the_last_digit(tiny_train):
    """With dropout; that CoupAlign's gradients repeat is shown in test_gradients_repeat.py."""
    one, two = tiny_train("one"), tiny_train("two")
    assert (one / "steps.csv").read_bytes() == (two / "steps.csv").read_bytes()
    again = read_state(two / "last.ckpt")[0]
    for name, parameter in read_state(one / "last.ckpt")[0].items():
        np.testing.assert_array_equal(parameter.asnumpy(), again[name].asnumpy(), err_msg=name)


def test_the_same_seed_gives_the_same_initial_weights():
    weights = []
    for _ in range(2):
        config = refshapes_config("none")
        set_up(config.run)
        weights.append(build_model(config).parameters_dict())
    for name, parameter in weights[0].items():
        np.testing.assert_array_equal(parameter.asnumpy(), weights[1][name].asnumpy(), err_msg=name)


def test_another_run_may_start_from_saved_weights(tiny_train):
    start = tiny_train("one") / "last.ckpt"
    keys = {"init_checkpoint": str(start), "epochs": 1, "decay_epochs": 1}
    two = tiny_train("two", **keys, learning_rate=1e-9, end_learning_rate=0.0)
    before, after = (read_checkpoint(path) for path in (start, two / "last.ckpt"))
    assert int(after["global_step"].asnumpy()[0]) == STEPS
    for name in ("image_encoder.weight", "text_encoder.embedding_table", "mask_proj.weight"):
        assert_close(after[name], before[name].asnumpy(), relative=1e-5)
