"""Ablation studies: the plan, and which runs are trained, skipped and resumed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

import study as program
from coupalign.config import load_config
from coupalign.errors import UserError
from coupalign.files import REPOSITORY
from coupalign.study.plan import read_study
from coupalign.study.report import write_results
from coupalign.study.runner import Child, train_missing
from tests.study_runs import SMALL, leave_results, write

SHIPPED = [REPOSITORY / "configs/ablations/refshapes.yaml", REPOSITORY / "configs/ablations/refcoco.yaml"]
# oIoU of the paper's Tables 4 and 5, mIoU of Table 3, from its text.
PAPER = {
    ("table4", "oIoU"): {"no-wpa": 70.43, "uni": 72.70, "no-sma": 73.02, "no-aux": 73.70, "full": 74.70},
    ("table5", "oIoU"): {
        "full": 74.70,
        "stages-12": 72.74,
        "stages-34": 73.93,
        "stage-4": 73.61,
        "stage-3": 72.53,
        "stage-2": 72.63,
        "stage-1": 72.59,
    },
    ("table3", "mIoU"): {"20": 74.77, "50": 74.98, "100": 75.49},
}


@pytest.fixture
def small(tmp_path):
    return read_study(write(tmp_path, SMALL))


# --- The plan


def test_table_4_comes_seed_by_seed_and_nothing_twice(small):
    assert list(map(str, small.runs())) == ["uni/1", "full/1", "uni/2", "full/2", "uni/3", "full/3", "wide/1"]
    assert list(map(str, small.runs("ours"))) == ["full/1", "wide/1"]
    assert list(map(str, small.runs("uni"))) == ["uni/1", "uni/2", "uni/3"]
    assert list(map(str, small.runs("uni/2"))) == ["uni/2"]
    with pytest.raises(UserError, match="no table, row or row/seed 'uni/4'; tables: four, ours; rows: full"):
        small.runs("uni/4")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_studies_are_those_of_the_paper(path):
    study = read_study(path)
    for (name, metric), figures in PAPER.items():
        rows = study.tables[name]["rows"]
        shown = {each["label"] if name == "table3" else row: each["paper"][metric] for row, each in rows.items()}
        assert shown == figures
    assert len(study.tables["table4"]["seeds"]) >= 3 and next(iter(study.tables)) == "table4"
    for row, entry in study.tables["table3"]["rows"].items():
        assert study.config(study.runs(row)[0], "runs").model.num_queries == int(entry["label"])
    for row, entry in study.tables["table5"]["rows"].items():
        model = study.config(study.runs(row)[0], "runs").model
        stages = entry["label"].replace("1-4", "1, 2, 3, 4").split(", ")
        assert model.wpa_stages == tuple(map(int, stages)) and model.wpa_direction == "bi"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_runs_differ_in_their_rows_keys_and_seed_alone(path):
    study = read_study(path)
    for run in study.runs():
        config, base = study.config(run, "runs/study").as_dict(), study.base
        changed = {key: value for key, value in config.items() if value != base[key]}
        own = {"seed": run.seed, "resume": "auto", "output_dir": f"runs/study/{run}"}
        assert changed == {**study.rows[run.row], **own}


def rows(**changed):
    return {"rows": {**SMALL["rows"], **changed}}


def four(**table):
    return {"tables": {"four": {"title": "Four", **table}}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": [1]}, "unknown name 'seed'"),
        ({"family": None}, "family must be a str"),
        (rows(uni={"wpa_direktion": "uni"}), "row uni: unknown key 'wpa_direktion': did you mean wpa_direction?"),
        (rows(uni={"wpa_direction": "both"}), "row uni: wpa_direction is 'both'"),
        (rows(uni={"seed": 5}), "row uni: the study sets seed itself"),
        (rows(uni=["bi"]), "row uni: expected keys of the configuration"),
        (rows(**{"../up": {"num_queries": 9}}), "row ../up: a row's name becomes a directory"),
        ({"reference": "all"}, "there is no row 'all'"),
        ({"split": "test"}, "split test is not among eval_splits"),
        ({"keys": {"epochs": 0}}, "epochs is 0"),
        (four(), "table four: rows is missing"),
        (four(rows={"fool": {"label": "x"}}), "table four: there is no row 'fool'"),
        (four(rows={"full": {"label": "x", "paper": {"IoU": 1.0}}}), "row full, paper: unknown name 'IoU'"),
        (four(seeds=[1, 1], rows={"full": {"label": "x"}}), "seeds must be different integers from 0"),
        ({"tables": {"full": {"title": "Four", "rows": {"full": {"label": "x"}}}}}, "a row has the same name"),
        ("- rows", "lines of `key: value`"),
    ],
)
def test_a_study_file_that_does_not_fit_gives_one_line(tmp_path, refuses, change, message):
    path = write(tmp_path, change if isinstance(change, str) else {**SMALL, **change})
    assert message in refuses(program.main, ["--study", path])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--study", "nowhere.yaml"], "no configuration file nowhere.yaml (No such file or directory): check --study"),
        (["--study", str(SHIPPED[0]), "--only", "table6"], "no table, row or row/seed 'table6'"),
        (["--study", str(SHIPPED[0]), "--config", "default_config.yaml"], "--config"),
        ([], "--study"),
    ],
)
def test_arguments_that_do_not_fit_give_one_line(refuses, arguments, message):
    assert message in refuses(program.main, arguments)


# --- Runs one after another


class Trainer:
    """Replaces the processes: records what is trained and writes the files of a finished run."""

    signal = 0

    def __init__(self, fails=(), stopped_at=""):
        self.fails, self.stopped_at, self.trained = fails, stopped_at, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __call__(self, log, program, option, file):
        run = f"{log.parent.parent.name}/{log.parent.name}"
        if program == "eval":
            assert option == "--checkpoint" and file.name == "best.ckpt"
            leave_results(load_config(log.parent / "config.yaml"), [(9, 10)])
            return 0
        self.trained.append(run)
        if run in self.fails:
            log.write_text("epoch 1\nerror: out of memory\n\n")
            return 2
        if run == self.stopped_at:
            self.signal = signal.SIGTERM
            return 143
        return 0


def go(study, output, trainer, **overrides):
    base = load_config(overrides={**study.base, "output_dir": str(output), **overrides})
    return train_missing(study, study.runs(), base, lambda: write_results(study, output), trainer)


def test_what_is_done_is_skipped_and_a_failure_stops_nothing(small, tmp_path, caplog):
    caplog.set_level("INFO")
    first = Trainer(fails=["full/2"])
    assert go(small, tmp_path, first) == 1
    assert first.trained == list(map(str, small.runs()))
    assert "full/2 failed with exit code 2: error: out of memory" in caplog.text
    second = Trainer()
    assert go(small, tmp_path, second) == 0
    assert second.trained == ["full/2"]
    assert "7 runs, 6 of them done" in caplog.text
    third = Trainer()
    assert go(small, tmp_path, third) == 0 and third.trained == []


def test_a_study_that_is_stopped_goes_on_with_the_run_that_was(small, tmp_path):
    first, second = Trainer(stopped_at="uni/2"), Trainer()
    assert go(small, tmp_path, first) == 143
    assert first.trained == ["uni/1", "full/1", "uni/2"]
    assert "2 of 7 runs are done" in (tmp_path / "results.md").read_text()
    assert go(small, tmp_path, second) == 0
    assert second.trained == ["uni/2", "full/2", "uni/3", "full/3", "wide/1"]


def test_a_directory_of_another_configuration_is_left_alone(small, tmp_path):
    go(small, tmp_path, Trainer(stopped_at="uni/1"))
    trainer = Trainer()
    with pytest.raises(
        UserError, match=r"uni/1 holds a run with learning_rate 0.002, but now it is 0.001: choose another"
    ):
        go(small, tmp_path, trainer, learning_rate=1e-3)
    assert trainer.trained == []
    assert go(small, tmp_path, trainer, num_workers=2) == 0  # decides nothing


PYTHON = """#!/bin/sh
trap 'echo saved; exit 143' TERM
echo "given $*"
cut -d " " -f 5 /proc/$$/stat > "$(dirname "$4")/group"
touch "$(dirname "$4")/started"
i=0; while [ $i -lt 600 ]; do sleep 0.05; i=$((i + 1)); done
exit 0
"""


def test_a_signal_is_handed_on_once_and_the_child_may_save(small, tmp_path, monkeypatch):
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    config = small.config(small.runs()[0], tmp_path)
    directory = Path(config.run.output_dir)
    before = signal.getsignal(signal.SIGINT)

    def interrupt():
        while not (directory / "started").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    directory.mkdir(parents=True)
    with Child() as child:
        assert child(directory / "log.txt", "train", directory / "config.yaml") == 143
    assert child.signal == signal.SIGINT and signal.getsignal(signal.SIGINT) is before
    said = (directory / "log.txt").read_text().splitlines()
    assert said == [f"given -m coupalign train {directory}/config.yaml", "saved"]
    assert int((directory / "group").read_text()) != os.getpgid(0)  # Ctrl-C in a terminal goes to all of a group
