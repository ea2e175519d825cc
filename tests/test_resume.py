"""Going on with a training: what is saved, what is refused, and that a killed training ends as one left alone."""

from __future__ import annotations

import random
import resource
import signal
from dataclasses import make_dataclass

import mindspore
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from benchmarks.kill_and_resume import Training, differences
from coupalign.checkpoints.state import (
    Progress,
    check_unchanged,
    find_state,
    fingerprint,
    read_state,
    restore,
    save_state,
)
from coupalign.config import ConfigError, config_keys, load_config
from coupalign.errors import UserError
from coupalign.training.run_directory import STEP_COLUMNS, RunDirectory
from tests.conftest import SMALLEST, read_csv, refshapes_config

DATA = fingerprint(np.arange(24, dtype=np.int32).reshape(6, 4))


def parameters(step: int) -> dict[str, Parameter]:
    random_ = np.random.default_rng(step)
    return {
        "seg_head.gamma.0.weight": Parameter(Tensor(random_.standard_normal((5, 7)).astype(np.float32))),
        "adam_m.seg_head.gamma.0.weight": Parameter(Tensor(random_.standard_normal((5, 7)).astype(np.float32))),
        "global_step": Parameter(Tensor([step], mindspore.int32)),
    }


def progress(config, step: int) -> Progress:
    figures = {"learning_rate": 0.1, "sums": [1 / 3, 0.2], "best": 0.1 * step, "seconds": 1.5 * step}
    return Progress(config.as_dict(), DATA, step=step, epochs=step // 4, **figures)


def figures(step: int) -> dict[str, float]:
    return {**dict(zip(STEP_COLUMNS, [step, 0.1, 0.2, 0.3, 1e-3, 0])), "epoch": 1 + (step - 1) // 4}


@pytest.fixture
def run(tmp_path):
    """A run of nine steps, four an epoch, with a checkpoint after steps 2, 4, 6 and 8: (configuration, directory)."""
    config = load_config(overrides={**SMALLEST, "output_dir": str(tmp_path / "run"), "keep_checkpoints": 2})
    with RunDirectory(config, None) as run:
        for step in range(1, 10):
            run.log_step(figures(step))
            if step % 4 == 0:
                run.log_epoch({"epoch": step // 4, "step": step})
            if step % 2 == 0:
                run.save(parameters(step), progress(config, step))
        run.save_best(parameters(4))
    return config, tmp_path / "run"


def going_on(config, **overrides):
    return load_config(overrides={**config.as_dict(), "resume": "auto", **overrides})


def test_the_last_checkpoints_are_kept_and_hold_everything(run):
    config, directory = run
    assert {path.name for path in directory.glob("*.ckpt")} == {
        *("best.ckpt", "last.ckpt", "step_00000004.ckpt", "step_00000006.ckpt"),
    }
    for name, step in (("last.ckpt", 8), ("step_00000006.ckpt", 6), ("step_00000004.ckpt", 4)):
        saved, at = read_state(directory / name)
        assert at == progress(config, step)
        wanted, fresh = parameters(step), parameters(0)
        restore(directory / name, fresh, saved)
        for each, value in wanted.items():
            np.testing.assert_array_equal(fresh[each].asnumpy(), value.asnumpy())


def test_auto_goes_on_from_the_newest_and_never_does_not(run):
    config, directory = run
    path, _, at = find_state(going_on(config))
    assert (path, at.step) == (directory / "last.ckpt", 8)
    with pytest.raises(UserError, match="already holds a run.*--resume auto"):
        find_state(config)
    assert find_state(going_on(config, output_dir=str(directory.parent / "new"))) is None


def test_tables_end_where_the_training_stands(run):
    config, directory = run
    whole = {name: (directory / name).read_bytes() for name in ("steps.csv", "curve.csv")}
    for name, torn in (
        ("steps.csv", b"\0\0\0\0\r\n7\0,0.1\r\n10,0.5,0"),
        ("curve.csv", b"3,12,0.5"),
    ):
        with open(directory / name, "ab") as file:
            file.write(torn)  # killed while it wrote, or the power failed
    (directory / ".last.0123abcd.tmp").write_bytes(b"half written")
    resumed = RunDirectory(going_on(config), find_state(going_on(config)))
    assert not list(directory.glob(".*"))
    resumed.log_step(figures(9))
    assert {name: (directory / name).read_bytes() for name in whole} == whole


def test_a_table_of_an_older_version_is_taken_over_by_name(run):
    config, directory = run
    (directory / "curve.csv").write_bytes(b"epoch,oIoU,step\r\n1,0.5,4\r\n2,0.25,8\r\n3,0.1,12\r\n")
    RunDirectory(going_on(config), find_state(going_on(config)))
    rows = [(row["epoch"], row["step"], row["oIoU"], row["loss"]) for row in read_csv(directory / "curve.csv")]
    assert rows == [("1", "4", "0.5", ""), ("2", "8", "0.25", "")]


def test_a_damaged_checkpoint_is_refused_by_name_or_holds_the_same(run):
    config, directory = run
    path = directory / "last.ckpt"
    content, refused = path.read_bytes(), 0
    draw = random.Random(0)
    damaged = [content[: draw.randrange(len(content))] for _ in range(60)]
    for _ in range(240):
        place = draw.randrange(len(content))
        damaged.append(content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :])
    for each in damaged:
        path.unlink()
        path.write_bytes(each)
        try:
            saved, at = read_state(path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
        else:
            assert at == progress(config, 8)
            for name, value in parameters(8).items():
                np.testing.assert_array_equal(saved[name].asnumpy(), value.asnumpy())
    assert refused > 290


def test_auto_takes_the_one_before_a_damaged_checkpoint_and_says_so(run, caplog):
    config, directory = run
    for name in ("last.ckpt", "step_00000006.ckpt"):
        content = (directory / name).read_bytes()
        (directory / name).unlink()
        (directory / name).write_bytes(content[: content.index(b"adam_m") + 60])
    path, _, at = find_state(going_on(config))
    assert (path.name, at.step) == ("step_00000004.ckpt", 4)
    warnings = [record.getMessage() for record in caplog.records]
    assert "last.ckpt" in warnings[0] and "step_00000006.ckpt" in warnings[1]
    resumed = RunDirectory(going_on(config), find_state(going_on(config)))
    resumed.save(parameters(5), progress(config, 5))
    assert read_state(directory / "last.ckpt")[1].step == 5
    (directory / "last.ckpt").unlink()
    (directory / "last.ckpt").write_bytes(b"")
    for older in directory.glob("step_*"):
        older.unlink()
    with pytest.raises(UserError, match="no checkpoint in .* can be resumed: .*last.ckpt"):
        find_state(going_on(config))


@pytest.mark.parametrize("changed", ["fewer", "more", "text"])
def test_a_checkpoint_of_another_version(run, changed, caplog):
    """Missing required fields are refused, and skipped by auto. Other differences are tolerated."""
    config, directory = run
    at = progress(config, 9)
    fields = {
        "more": {**vars(at), "temperature": 3},
        "fewer": {"config": at.config, "step": 9},
        "text": {**vars(at), "config": "a.yaml"},
    }[changed]
    saved = make_dataclass("Other", fields)(**fields)
    (directory / "last.ckpt").unlink()
    save_state(directory / "last.ckpt", parameters(9), saved)
    if changed == "more":
        assert find_state(going_on(config))[2] == at and "temperature" in caplog.text
    else:
        with pytest.raises(UserError, match="another version.*--init_checkpoint"):
            read_state(directory / "last.ckpt")
        assert find_state(going_on(config))[0].name == "step_00000006.ckpt" and "another version" in caplog.text


def test_going_on_from_a_checkpoint_by_name(run, tmp_path):
    config, directory = run
    older = str(directory / "step_00000004.ckpt")
    with pytest.raises(UserError, match=r"holds newer checkpoints than .*step_00000004.ckpt \(last.ckpt\)"):
        find_state(going_on(config, resume=older))
    branch = going_on(config, resume=older, output_dir=str(tmp_path / "branch"))
    state = find_state(branch)
    RunDirectory(branch, state)
    assert state[2].step == 4
    assert (tmp_path / "branch/steps.csv").read_text().splitlines()[-1].startswith("4,")
    with pytest.raises(UserError, match="already holds a run"):
        find_state(branch)
    with pytest.raises(UserError, match="best.ckpt holds no training state.*--init_checkpoint instead"):
        find_state(going_on(config, resume=str(directory / "best.ckpt"), output_dir=str(tmp_path / "other")))
    with pytest.raises(ConfigError, match="resume and init_checkpoint are both"):
        going_on(config, resume=older, init_checkpoint=older)


def test_what_decides_the_training_may_not_change(run):
    config, directory = run
    last = directory / "last.ckpt"
    _, at = read_state(last)
    values = {"learning_rate": 1.0, "batch_size": 3, "seed": 1, "bert_dropout": 0.5, "init_checkpoint": "x.ckpt"}
    values |= {"val_split": "testA", "train_families": ("attribute",), "decay_epochs": 3, "threshold": 0.1}
    for key, value in values.items():
        with pytest.raises(UserError, match=f"^{key} is .*, but was .*last.ckpt"):
            check_unchanged(last, at, going_on(config, **{key: value}), DATA)
    others = {
        "output_dir": "o",
        "data_dir": "d",
        "num_workers": 5,
        "epochs": 70,
        "checkpoint_every": 3,
        "eval_every": 9,
    }
    assert all(config_keys()[key].may_change for key in others)
    check_unchanged(last, at, going_on(config, **others), DATA)
    other = fingerprint(np.arange(24, dtype=np.int32).reshape(6, 4)[::-1])
    with pytest.raises(UserError, match="split train of .* is not the one that the run of .*last.ckpt was trained on"):
        check_unchanged(last, at, going_on(config), other)


def test_files_that_may_not_grow_are_reported_and_leave_the_last_checkpoint(run):
    config, directory = run
    resumed = RunDirectory(going_on(config), find_state(going_on(config)))
    before = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        with pytest.raises(UserError, match="new/config.yaml cannot be written"):
            RunDirectory(going_on(config, output_dir=str(directory.parent / "new")), None)
        with pytest.raises(UserError, match="last.ckpt cannot be written.*--resume auto"):
            resumed.save(parameters(10), progress(config, 10))
        with pytest.raises(UserError, match="best.ckpt cannot be written.*--resume auto"):
            resumed.save_best(parameters(10))
        with pytest.raises(UserError, match="run cannot be written.*--resume auto"):
            for step in range(100):
                resumed.log_step(figures(step))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    after = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    for name in before.keys() - {"steps.csv"}:
        assert after[name] == before[name], name
    assert before.keys() == after.keys() and find_state(going_on(config))[2].step == 8


@pytest.mark.slow
def test_a_training_that_is_killed_and_stopped_ends_as_one_left_alone(tiny_data, tmp_path):
    """In processes of their own, with a real step but a tiny model; benchmarks/kill_and_resume.py does it with any."""
    keys = {"epochs": 2, "decay_epochs": 2, "batch_size": 10, "learning_rate": 2e-3, "eval_limit": 4}
    keys |= {"checkpoint_every": 7, "keep_checkpoints": 1, "aux_loss_weight": 0.0}
    config = refshapes_config(tiny_data, **keys)
    whole, killed = (Training(config, tmp_path / name, ["-m", "tests.tiny_training"]) for name in ("whole", "killed"))
    assert whole.run() == 0
    assert killed.run(signal.SIGKILL, after=10, writing=True) == -signal.SIGKILL
    # Ctrl-C, which MindSpore would take for itself while a graph runs; SIGTERM is tried in test_trainer.py.
    assert killed.run(signal.SIGINT, after=20, delay=0.01) == 130
    assert whole.steps() > killed.steps() >= 30
    assert killed.run() == 0
    assert differences(whole.directory, killed.directory) == []
    log = (tmp_path / "killed.log").read_text()
    assert log.count("resuming from") == 2 and log.count("stopped by SIGINT") == 1
