"""The training scripts: usage, exit codes, logs and signals, with a stand-in for the environment and for train.py."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.script_tree import make_tree

PYTHON = """#!/bin/sh
echo "called with $*"; echo "on stderr" >&2
trap 'echo saved; exit 143' TERM
trap 'echo saved; exit 130' INT
case "$*" in *--wait*) touch started; while :; do sleep 0.05; done ;; esac
for code in "$@"; do :; done
exit "$code"
"""


@pytest.fixture
def tree(tmp_path):
    """A copy of scripts/ in a tree whose Python prints its arguments and exits with the last one."""
    return make_tree(tmp_path / "tree", {"python": PYTHON})


def standalone(tree: Path, *arguments: str) -> list[str]:
    return ["bash", str(tree / "scripts/run_standalone_train.sh"), *arguments]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "DEVICE, CONFIG and DATA_DIR are needed"),
        (["CPU", "c.yaml"], "DEVICE, CONFIG and DATA_DIR are needed"),
        (["CPU", "--resume", "auto"], "DEVICE, CONFIG and DATA_DIR are needed"),
        (["TPU", "c.yaml", "data"], "DEVICE is TPU: choose CPU, GPU or Ascend"),
        (["CPU", "none.yaml", "data"], "no configuration file none.yaml"),
        (["CPU", "c.yaml", "nowhere"], "no directory nowhere: make it with prepare_data.py"),
    ],
)
def test_standalone_usage_errors(tree, arguments, message):
    run = subprocess.run(standalone(tree, *arguments), cwd=tree, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.splitlines()[0] == f"error: {message}"
    assert not (tree / "logs").exists()


def test_standalone_help(tree):
    run = subprocess.run(standalone(tree, "--help"), cwd=tree, capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.startswith("Usage: bash scripts/run_standalone_train.sh DEVICE")


@pytest.mark.parametrize("code", [0, 2, 130])
def test_standalone_trains_from_anywhere_and_ends_as_training_does(tree, tmp_path, code):
    run = subprocess.run(
        standalone(tree, "GPU", "tree/c.yaml", "tree/data", "--resume", "auto", str(code)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == code
    expected = (
        f"called with train.py --config {tree}/c.yaml --data_dir {tree}/data --device_target GPU --resume auto {code}"
    )
    assert run.stdout.splitlines()[-1] == expected and run.stderr == "on stderr\n"
    (log,) = (tree / "logs").iterdir()
    assert sorted(log.read_text().splitlines()) == sorted([expected, "on stderr"])


@pytest.mark.parametrize(("number", "to_all", "code"), [(signal.SIGTERM, False, 143), (signal.SIGINT, True, 130)])
def test_standalone_lets_training_save_before_it_ends(tree, number, to_all, code):
    """SIGTERM to the script alone, as schedulers send it; Ctrl-C to all, as a terminal does."""
    # A job in the background of a script is started with Ctrl-C ignored, which a shell cannot undo.
    process = subprocess.Popen(
        standalone(tree, "CPU", "c.yaml", "data", "--wait"),
        cwd=tree,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (tree / "started").exists():
        time.sleep(0.02)
    (os.killpg if to_all else os.kill)(process.pid, number)
    output = process.communicate()[0]
    assert process.returncode == code
    assert output.splitlines()[-1] == "saved"
