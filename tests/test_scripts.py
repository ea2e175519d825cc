"""Scripts for one device: usage, environment, exit codes, logs and signals, with a stand-in for Python."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.script_tree import PYTHON, environment, make_tree, run, write_program

TRAINING = (
    PYTHON
    + """
echo "called with $*"; echo "on stderr" >&2
trap 'echo saved; exit 143' TERM
trap 'echo saved; exit 130' INT
case "$*" in *--wait*) touch started; while :; do sleep 0.05; done ;; esac
for code in "$@"; do :; done
exit "$code"
"""
)
# A Python that lacks two packages, and whose pip cannot reach an index.
LACKING = """#!/bin/sh
case "$*" in
    *scripts/missing.py*) echo "numpy>=1 tqdm>=4" ;;
    *"pip install"*) echo "Could not find a version (from versions: none)" >&2; echo pip >> pip_calls; exit 1 ;;
esac
"""


@pytest.fixture
def tree(tmp_path):
    """A copy of scripts/ with a Python that prints its arguments and exits with the last one."""
    return make_tree(tmp_path / "tree", {"python": TRAINING})


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("run_standalone_train.sh CPU c.yaml", "DATA_DIR"),
        ("run_standalone_train.sh CPU --resume auto", "DATA_DIR"),
        ("run_standalone_train.sh TPU c.yaml data", "TPU"),
        ("run_standalone_train.sh CPU none.yaml data", "none.yaml"),
        ("run_standalone_train.sh CPU c.yaml nowhere", "nowhere"),
        ("run_eval.sh CPU none.ckpt data", "none.ckpt"),
        ("run_study.sh none.yaml data out", "none.yaml"),
    ],
)
def test_mistakes_are_named_before_anything_starts(tree, arguments, named):
    done = run(tree, *arguments.split())
    assert done.returncode == 2 and not (tree / "logs").exists()
    first = done.stderr.splitlines()[0]
    assert first.startswith("error: ") and named in first


def test_scripts_show_their_usage(tree):
    for path in (tree / "scripts").glob("*.sh"):
        if path.name not in ("environment.sh", "distributed.sh"):  # sourced by the others
            done = run(tree, path.name, "--help")
            assert (done.returncode, done.stderr) == (0, "") and f"scripts/{path.name}" in done.stdout.splitlines()[0]


@pytest.mark.parametrize("code", [0, 2, 130])
@pytest.mark.parametrize(
    ("script", "file", "program", "log"),
    [("run_standalone_train.sh", "c.yaml", "train.py --config", "standalone"),
     ("run_eval.sh", "b.ckpt", "eval.py --checkpoint", "eval")],
)  # fmt: skip
def test_a_script_runs_from_anywhere_and_exits_as_its_program(tree, tmp_path, script, file, program, log, code):
    done = run(tree, script, "GPU", f"tree/{file}", "tree/data", "--seed", "3", str(code), cwd=tmp_path)
    assert done.returncode == code
    called = f"called with {program} {tree}/{file} --data_dir {tree}/data --device_target GPU --seed 3 {code}"
    assert done.stdout.splitlines()[-1] == called and done.stderr == "on stderr\n"
    (written,) = (tree / "logs").glob(f"{log}_*.log")
    assert sorted(written.read_text().splitlines()) == sorted([called, "on stderr"])


def test_a_study_runs_from_anywhere_and_exits_as_its_program(tree, tmp_path):
    done = run(tree, "run_study.sh", "tree/c.yaml", "tree/data", "out", "--only", "table4", "1", cwd=tmp_path)
    called = f"study.py --study {tree}/c.yaml --data_dir {tree}/data --output_dir {tmp_path}/out --only table4 1"
    assert done.returncode == 1 and done.stdout.splitlines()[-1] == f"called with {called}"


def test_a_device_is_checked_from_anywhere(tree, tmp_path):
    done = run(tree, "check_device.sh", "Ascend", "--precision", "fp16", "1", cwd=tmp_path)
    called = "called with check_device.py --device_target Ascend --precision fp16 1"
    assert done.returncode == 1 and done.stdout.splitlines()[-1] == called


QUICKSTART = (
    PYTHON
    + """
echo "$1" >> calls
[ "$1" != "$(cat failing 2>/dev/null)" ] || exit 2
mkdir -p runs/quickstart; touch runs/quickstart/best.ckpt
"""
)


def test_the_quickstart_goes_on_where_it_failed(tree):
    write_program(tree / "env/bin/python", QUICKSTART)
    (tree / "failing").write_text("eval.py")
    assert run(tree, "quickstart.sh").returncode == 2
    (tree / "failing").unlink()
    for again in ((), (), ("--fresh",)):
        assert run(tree, "quickstart.sh", *again).returncode == 0
    steps = [line.removesuffix(".py") for line in (tree / "calls").read_text().split()]
    last = ["export", "predict"]
    assert steps == [
        *("prepare_data", "train", "eval"),
        *("prepare_data", "eval", *last),
        *("prepare_data", *last),
        *("prepare_data", "train", "eval", *last),
    ]


@pytest.mark.parametrize(("number", "to_all", "code"), [(signal.SIGTERM, False, 143), (signal.SIGINT, True, 130)])
def test_a_signal_lets_training_save_before_it_ends(tree, number, to_all, code):
    """SIGTERM to the script alone, as schedulers send it; Ctrl-C to the group, as a terminal does."""
    process = subprocess.Popen(
        ["bash", str(tree / "scripts/run_standalone_train.sh"), "CPU", "c.yaml", "data", "--wait"],
        cwd=tree,
        env=environment(tree),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A background job of a script starts with Ctrl-C ignored, which a shell cannot undo.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (tree / "started").exists():
        time.sleep(0.02)
    (os.killpg if to_all else os.kill)(process.pid, number)
    output = process.communicate()[0]
    assert process.returncode == code
    assert output.splitlines()[-1] == "saved"


def train(tree, *arguments, **variables):
    return run(tree, "run_standalone_train.sh", "CPU", "c.yaml", "data", "0", *arguments, **variables)


@pytest.mark.parametrize("variable", ["COUPALIGN_PYTHON", "VIRTUAL_ENV", "CONDA_PREFIX"])
def test_an_environment_of_the_user_is_used_and_no_other_made(tree, variable):
    write_program(tree / "mine/bin/python", TRAINING.replace("called with", "mine with"))
    value = tree / ("mine/bin/python" if variable == "COUPALIGN_PYTHON" else "mine")
    active = {"VIRTUAL_ENV": "", variable: str(value)}
    done = train(tree, **active)
    assert done.returncode == 0 and "mine with train.py" in done.stdout
    assert not (tree / ".venv").exists()


@pytest.mark.parametrize(("arguments", "variables"), [(["--no-install"], {}), ([], {"COUPALIGN_NO_INSTALL": "1"})])
def test_without_installation_one_line_names_what_is_missing(tree, arguments, variables):
    write_program(tree / "env/bin/python", LACKING)
    done = train(tree, *arguments, **variables)
    assert done.returncode == 2 and not (tree / "pip_calls").exists()
    assert len(done.stderr.splitlines()) == 1 and "numpy>=1 tqdm>=4" in done.stderr
    done = train(tree, *arguments, VIRTUAL_ENV="", **variables)
    assert done.returncode == 2 and "COUPALIGN_PYTHON" in done.stderr and not (tree / ".venv").exists()


def test_without_a_network_pip_is_tried_once(tree):
    write_program(tree / "env/bin/python", LACKING)
    done = train(tree)
    assert done.returncode == 2 and (tree / "pip_calls").read_text() == "pip\n"
    assert len(done.stderr.splitlines()) == 1 and "no network" in done.stderr and "numpy>=1" in done.stderr


@pytest.mark.slow
def test_two_jobs_make_one_environment_and_repair_an_unfinished_one(tree):
    (tree / ".venv/bin").mkdir(parents=True)
    (tree / ".venv/bin/python").symlink_to("nowhere")
    write_program(tree / "scripts/missing.py", "import sys\nsys.exit(0)")
    (tree / "train.py").write_text("import sys; print(sys.prefix)")
    command = ["bash", str(tree / "scripts/run_standalone_train.sh"), "CPU", "c.yaml", "data"]
    path = f"{os.path.dirname(sys.executable)}:/usr/bin:/bin"
    jobs = [
        subprocess.Popen(command, cwd=tree, env=environment(tree, VIRTUAL_ENV="", PATH=path), stdout=-1, text=True)
        for _ in range(2)
    ]
    outputs = [job.communicate(timeout=120)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0]
    assert all(output.splitlines()[-1] == str(tree / ".venv") for output in outputs)
    assert sum("Making .venv" in output for output in outputs) == 1
