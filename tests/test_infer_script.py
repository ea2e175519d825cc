"""scripts/run_infer_310.sh and scripts/set_up_lite.sh, with stand-ins for the programs they start."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from coupalign.files import REPOSITORY
from tests.script_tree import make_tree, run, write_program

# Stands in for Python and for the C++ program: prints calls, keeps the files of each chunk, and counts disk use.
PROGRAM = """#!/bin/sh
case "$*" in *scripts/missing.py*|*--version) exit ;; -c*import?sys,*) exit ;; -c*) echo 1000000; exit ;; esac
echo "$(basename "$0") $*"
out=runs/infer_310
case "$*" in
    --mindir_path*)
        [ ! -f ../../no_device ] || { echo "error: no such device" >&2; exit 2; }
        ls inputs >> ran
        mkdir -p result_Files; touch result_Files/000000_0.bin
        echo "NN inference" > time_Result/test_perform_static.txt ;;
    preprocess*) mkdir -p $out/inputs; touch $out/inputs/$(echo "$*" | sed 's/.*--offset //; s/ --eval.*//; s/ //g') ;;
    postprocess*) [ "$(wc -l < $out/ran)" -lt 3 ] || { mkdir -p $out/scores; touch $out/scores/testA.json; } ;;
esac
"""


@pytest.fixture
def tree(tmp_path):
    """A copy of the scripts in a tree whose programs print their arguments."""
    root = make_tree(tmp_path / "tree", {"python": PROGRAM})
    shutil.copytree(REPOSITORY / "deploy", root / "deploy", ignore=shutil.ignore_patterns("__pycache__"))
    write_program(root / "ascend310_infer/build/coupalign", PROGRAM)
    (root / "ascend310_infer/build.sh").write_text('echo "Built target of $MS_LITE_HOME"')
    for name in ("g.mindir", "g.json"):
        (root / name).touch()
    (root / "lite").mkdir()
    return root


def infer(tree: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    return run(tree, "run_infer_310.sh", *arguments, **variables)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("g.mindir c.yaml", "DATA_DIR"),
        ("g.mindir c.yaml data GPU", "GPU"),
        ("g.mindir c.yaml data CPU first", "DEVICE_ID"),
        ("none.mindir c.yaml data", "none.mindir"),
        ("c.yaml c.yaml data", "c.yaml.json"),
        ("g.mindir none.yaml data", "none.yaml"),
        ("g.mindir c.yaml none", "none"),
        ("g.mindir c.yaml data --chunk_mb none", "--chunk_mb"),
        ("g.mindir c.yaml data", "MS_LITE_HOME"),
    ],
)
def test_mistakes_are_one_line(tree, arguments, named):
    done = infer(tree, *arguments.split(), MS_LITE_HOME="")
    first = done.stderr.splitlines()[0]
    assert done.returncode == 2 and first.startswith("error: ") and named in first


def test_one_sample_is_run_first_and_then_chunks_of_bounded_size(tree):
    arguments = ("g.mindir", "c.yaml", "data", "CPU", "--eval_limit", "50", "--chunk_mb", "20")  # of 1 MB a sample
    done = infer(tree, *arguments, MS_LITE_HOME="lite", SPLIT="testA")
    assert (done.returncode, done.stderr) == (0, "")
    calls = [line for line in done.stdout.splitlines() if line.startswith("python preprocess.py")]
    assert [call.partition("--offset ")[2] for call in calls] == [
        "0 --samples 1 --eval_limit 50",
        "1 --samples 20 --eval_limit 50",
        "21 --samples 20 --eval_limit 50",
    ]
    assert (tree / "runs/infer_310/ran").read_text().split() == ["0--samples1", "1--samples20", "21--samples20"]
    assert f"--mindir_path {tree}/g.mindir --device_type CPU --device_id 0" in done.stdout
    assert f"Built target of {tree}/lite" in done.stdout


def test_a_device_that_fails_costs_one_sample(tree):
    (tree / "no_device").touch()
    done = infer(tree, "g.mindir", "c.yaml", "data", MS_LITE_HOME="lite")
    assert done.returncode == 2 and "no such device" in done.stderr
    assert done.stdout.count("python preprocess.py") == 1 and "--samples 1" in done.stdout


def test_chunks_larger_than_the_free_space_are_refused_first(tree):
    done = infer(tree, "g.mindir", "c.yaml", "data", "--chunk_mb", "100000000", MS_LITE_HOME="lite")
    assert done.returncode == 2 and "--chunk_mb" in done.stderr and "preprocess" not in done.stdout


def test_what_is_missing_is_said(tree, tmp_path):
    """With nothing but bash and the system's tools in PATH, no Python of these versions is found."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "dirname", "sha256sum", "cut", "cat"):
        (tools / name).symlink_to(shutil.which(name))
    places = {"PATH": str(tools), "PYENV_ROOT": str(tmp_path), "OpenCV_ROOT": str(tmp_path)}
    done = run(tree, "set_up_lite.sh", "export", "lite", "tools", **places)
    assert done.returncode == 3
    lines = done.stdout.splitlines()
    assert [line.split(",")[0] for line in lines] == ["export: MISSING", "lite: MISSING", "tools: MISSING"]
    assert "g++ cmake libopencv-dev" in lines[2]
    assert run(tree, "set_up_lite.sh", "gpu").stderr.startswith("error: unexpected argument gpu")


@pytest.mark.parametrize(
    ("machine", "platform"), [("x86_64", "manylinux1_x86_64"), ("aarch64", "manylinux2014_aarch64")]
)
def test_the_libraries_are_those_of_the_machine(tree, tmp_path, machine, platform):
    write_program(tmp_path / "bin/uname", f"#!/bin/sh\necho {machine}\n")
    write_program(tmp_path / "bin/python3", f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ntouch .lite/cpp/lite.whl\n')
    done = run(tree, "set_up_lite.sh", "cpp", PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert done.returncode == 0 and "cpp: MS_LITE_HOME" in done.stdout
    assert f"--platform {platform} " in (tmp_path / "calls").read_text().splitlines()[0]
