"""The loop of training around a stand-in for the step: what the step is given, what is counted, where it goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
from contextlib import contextmanager

import mindspore
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from coupalign.checkpoints.state import read_state
from coupalign.config import load_config
from coupalign.data.dataset import Split
from coupalign.errors import UserError
from coupalign.training import build, trainer
from coupalign.training.order import epoch_order
from coupalign.training.run_directory import RunDirectory
from coupalign.training.step import StepResult
from coupalign.training.step_timer import TIME_COLUMNS
from coupalign.training.stopping import Stopped
from coupalign.training.update import Clip
from tests.conftest import read_csv, refshapes_config

EPOCHS, STEPS = 3, 5  # of 60 samples
SCORES = {5: 0.2, 10: 0.6, 15: 0.4}  # oIoU by the step after which it is measured
SAVED = (0, 2, 4, 5, 6, 8, 10, 12, 14, 15)  # steps after which there is a checkpoint
TIMES = ("time", "seconds", "samples_per_second", *TIME_COLUMNS)


class Step:
    """In place of TrainStep: a weight that takes in all that it is given, in order. Hooks run after a step."""

    inside = False  # the block in which the model has averaged weights
    seen: list[bytes] = []
    bad: set[int] = set()
    after: dict[int, object] = {}

    def __init__(self, objective, optimizer, max_grad_norm, batch, accumulation_steps, *others):
        self.batch, self.count, self.loss_names = batch, accumulation_steps, others[-1]
        self.apply_update = nn.Cell()
        self.apply_update.clip = Clip(max_grad_norm)
        self.weight = Parameter(Tensor([0.5], mindspore.float32), name="sma.weight")
        self.number = Parameter(Tensor([0], mindspore.int32), name="global_step")

    def set_train(self, mode=True):
        self.training = mode

    @contextmanager
    def averaged(self):
        Step.inside = True
        yield
        Step.inside = False

    def state(self):
        return {each.name: each for each in (self.weight, self.number)}

    def update(self, batches, seed, number, first_samples):
        assert self.training
        batches = [{name: each.asnumpy() for name, each in batch.items()} for batch in batches]
        assert len(batches) == self.count and all(
            len(each) == self.batch for batch in batches for each in batch.values()
        )
        assert first_samples == [place * self.batch for place in range(self.count)]
        whole = [np.concatenate([batch[name] for batch in batches]) for name in sorted(batches[0])]
        given = np.concatenate([[seed, number], *(each.ravel() for each in whole)])
        Step.seen.append(given.tobytes())
        number = int(self.number.asnumpy()[0]) + 1
        self.number.set_data(Tensor([number], mindspore.int32))
        self.weight.set_data(Tensor([float(self.weight.asnumpy()[0]) * 0.9 + given.std()], mindspore.float32))
        loss = np.nan if number in Step.bad else float(self.weight.asnumpy()[0])
        Step.after.pop(number, lambda: None)()
        losses = Tensor([loss * factor for factor in (1, 2, 3)], mindspore.float32)
        return StepResult(losses, Tensor(1 / number, mindspore.float32), Tensor(np.isfinite(loss)))


class Result:
    def __init__(self, step):
        self.metrics = {"oIoU": SCORES[step], "mIoU": 0.5 * SCORES[step], "prec@0.5": 0.0}
        self.generalised = {}


@pytest.fixture(scope="module")
def standing_in():
    """Training whose steps and validations are the ones above."""
    with pytest.MonkeyPatch.context() as patch:
        steps = []
        patch.setattr(build, "TrainStep", lambda *arguments: steps.append(Step(*arguments)) or steps[-1])
        patch.setattr(build, "make_optimizer", lambda *_: None)
        patch.setattr(trainer, "build_model", lambda _: nn.Dense(2, 2))
        patch.setattr(trainer, "evaluate_split", lambda *_, **__: Result(int(steps[-1].number.asnumpy()[0])))
        yield


def train(data, directory, **overrides):
    keys = {"epochs": EPOCHS, "decay_epochs": 1, "batch_size": 60, "checkpoint_every": 2, "resume": "auto"}
    config = refshapes_config(data, **{**keys, "output_dir": str(directory), **overrides})
    return trainer.train(config, progress=False)


@pytest.fixture
def training(standing_in, tiny_data, tmp_path):
    """``training(name, **overrides)`` trains in directory `name`, and gives it."""
    Step.seen, Step.bad, Step.after = [], set(), {}
    yield lambda name, **overrides: train(tiny_data, tmp_path / name, **overrides)
    Step.seen, Step.bad, Step.after = [], set(), {}


@pytest.fixture(scope="module")
def whole(standing_in, tiny_data, tmp_path_factory):
    """A training that was left alone: its directory, and what its steps were given."""
    directory = train(tiny_data, tmp_path_factory.mktemp("runs") / "whole")
    return directory, Step.seen


def table(path):
    return [{name: value for name, value in row.items() if name not in TIMES} for row in read_csv(path)]


def same(one, other):
    (left, at), (right, also) = read_state(one / "last.ckpt"), read_state(other / "last.ckpt")
    assert all((left[name].asnumpy() == right[name].asnumpy()).all() for name in left) and left.keys() == right.keys()
    assert (at.step, at.epochs, at.best, at.sums) == (also.step, also.epochs, also.best, also.sums)
    for name in ("steps.csv", "curve.csv"):
        assert table(one / name) == table(other / name)
    return True


class Killed(Exception):
    """In place of SIGKILL."""


def kill():
    raise Killed


def test_a_training_stopped_after_every_single_step_goes_on_with_the_same_samples(training, whole):
    directory, seen = whole
    assert len(set(seen)) == len(seen) == EPOCHS * STEPS
    for step in range(1, EPOCHS * STEPS + 1):
        Step.after = {step: lambda: os.kill(os.getpid(), signal.SIGTERM)}
        with pytest.raises(Stopped) as stopped:
            training("stopped")
        assert stopped.value.code == 143 and len(Step.seen) == step
    assert same(directory, training("stopped")) and Step.seen == seen


def test_a_training_killed_repeatedly_repeats_only_unsaved_steps(training, whole):
    directory, seen = whole
    expected, done = [], 0
    for step in (1, 2, 3, 4, 6, 7, 11, 13, 15):
        Step.after = {step: kill}
        with pytest.raises(Killed):
            training("killed")
        expected += seen[done:step]
        done = max(saved for saved in SAVED if saved < step)
    assert same(directory, training("killed"))
    assert Step.seen == expected + seen[done:]


def test_averaged_weights_are_validated_and_saved(training, monkeypatch):
    measured, save, when = trainer.evaluate_split, RunDirectory.save_best, []
    monkeypatch.setattr(trainer, "evaluate_split", lambda *_, **__: when.append(Step.inside) or measured())
    monkeypatch.setattr(RunDirectory, "save_best", lambda *given: when.append(Step.inside) or save(*given))
    training("run")
    assert when == [True] * 5 and not Step.inside


def test_a_batch_in_parts_has_the_samples_of_the_whole(training, whole):
    training("parts", accumulation_steps=3)
    assert Step.seen == whole[1]
    with pytest.raises(UserError, match="batch_size 60 does not divide among 1 devices and accumulation_steps 7"):
        training("seven", accumulation_steps=7)


def test_a_second_run_of_a_finished_training_changes_nothing(training):
    directory = training("run")
    before = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    training("run")
    assert {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()} == before
    assert len(Step.seen) == EPOCHS * STEPS


def test_best_is_the_highest_so_far_and_all_epochs_are_in_the_curve(training, caplog):
    caplog.set_level("INFO")
    directory = training("run")
    lines = [line for line in caplog.messages if line.startswith("epoch ")]
    assert [line.endswith("(best so far)") for line in lines] == [True, True, False]
    curve, steps = table(directory / "curve.csv"), table(directory / "steps.csv")
    assert [float(row["oIoU"]) for row in curve] == list(SCORES.values())
    for epoch, row in enumerate(curve):
        own = steps[epoch * STEPS : (epoch + 1) * STEPS]
        assert float(row["loss"]) == pytest.approx(np.mean([float(each["loss"]) for each in own]), rel=1e-12)
        assert row["learning_rate"] == own[-1]["learning_rate"] and row["skipped"] == "0"


def test_truncated_expressions_and_unknown_words_are_reported(training, tiny_data, tmp_path, caplog):
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data, ignore=shutil.ignore_patterns("source"))
    meta = json.loads((data / "meta.json").read_text())
    meta["splits"]["train"].update(truncated=7, unknown=1234)
    meta["splits"]["val"].update(truncated=0, unknown=0)
    (data / "meta.json").write_text(json.dumps(meta))
    caplog.set_level("INFO")
    train(data, tmp_path / "run")
    (line,) = [line for line in caplog.messages if "unknown" in line]
    assert all(part in line for part in ("train", "7 ", "1,234 ")) and "val" not in line


def test_going_on_elsewhere_leaves_a_best_checkpoint_there(training, whole, tmp_path):
    directory, _ = whole
    branch = training("branch", resume=str(directory / "step_00000012.ckpt"))
    assert (branch / "best.ckpt").exists()  # though the best of all was before step 12
    assert table(branch / "steps.csv") == table(directory / "steps.csv")


def test_a_rank_that_does_not_write_leaves_nothing(training, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(
        trainer, "RunDirectory", lambda config, state, writes: RunDirectory(config, state, writes=False)
    )
    training("silent")
    assert len(Step.seen) == EPOCHS * STEPS and not (tmp_path / "silent").exists()


def test_steps_that_are_not_finite_are_counted_and_left_out_of_means(training, caplog):
    Step.bad = {2, 3, 9}
    caplog.set_level("INFO")
    directory = training("run", max_skipped_steps=3)
    assert "2 steps not finite and skipped" in caplog.text
    steps, curve = table(directory / "steps.csv"), table(directory / "curve.csv")
    assert [row["skipped"] for row in curve] == ["2", "1", "0"]
    assert [int(row["step"]) for row in steps if row["skipped"] == "1"] == [2, 3, 9]
    mean = np.mean([float(row["loss"]) for row in steps[:STEPS] if row["skipped"] == "0"])
    assert float(curve[0]["loss"]) == pytest.approx(mean, rel=1e-12)


def test_too_many_in_a_row_end_the_run_and_leave_a_checkpoint_from_before(training):
    Step.bad = {4, 7, 8, 9}
    with pytest.raises(UserError, match="not finite in 3 steps in a row, up to step 9: lower learning_rate.*steps.csv"):
        training("run", max_skipped_steps=3)
    Step.bad, Step.seen = {4}, []
    assert len(table(training("run", max_skipped_steps=3) / "steps.csv")) == EPOCHS * STEPS


def test_a_signal_during_validation_ends_it_at_once_and_it_is_repeated(training, whole, monkeypatch):
    measured = trainer.evaluate_split

    def interrupted(*_, **__):
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("went on")

    monkeypatch.setattr(trainer, "evaluate_split", interrupted)
    with pytest.raises(Stopped) as stopped:
        training("stopped")
    assert stopped.value.code == 130
    monkeypatch.setattr(trainer, "evaluate_split", measured)
    assert same(whole[0], training("stopped"))


def test_fewer_samples_than_a_batch_are_refused(training, tmp_path):
    with pytest.raises(UserError, match=r"has \d+ samples, fewer than batch_size 301: set batch_size to"):
        training("run", batch_size=301)
    assert not (tmp_path / "run").exists()


def test_epochs_see_every_row_once_or_one_of_each_referent(tiny_data):
    config = refshapes_config(tiny_data)
    split = Split(config, "train")
    orders = [epoch_order(config.training, 42, split, epoch) for epoch in (0, 1, 0)]
    assert all(sorted(order) == list(range(300)) for order in orders)
    assert list(orders[0]) == list(orders[2]) != list(orders[1])
    one_each = load_config(overrides={**config.as_dict(), "train_sentences": "random"})
    drawn = [epoch_order(one_each.training, 42, split, epoch) for epoch in range(4)]
    for order in drawn:
        assert sorted(split.records["ref_id"][order]) == sorted(set(split.records["ref_id"]))
    assert len({tuple(sorted(order)) for order in drawn}) == 4


def test_epochs_can_keep_to_families(tiny_data):
    config = refshapes_config(tiny_data, train_families=["attribute", "ordinal"])
    split = Split(config, "train")
    family = split.records["family"]
    expected = [row for row in range(300) if family[row] in ("attribute", "ordinal")]
    assert sorted(epoch_order(config.training, 42, split, 0)) == expected and 0 < len(expected) < 300
    with pytest.raises(UserError, match="train_families has 'colour', but split train has attribute, extreme"):
        epoch_order(load_config(overrides={**config.as_dict(), "train_families": ["colour"]}).training, 42, split, 0)
