"""scripts/run_infer_310.sh and scripts/set_up_lite.sh, with stand-ins for the programs they start."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from coupalign.files import REPOSITORY

PROGRAM = """#!/bin/sh
echo "$(basename "$0") $*"
case "$*" in
    --mindir_path*) mkdir -p time_Result; echo "NN inference" > time_Result/test_perform_static.txt ;;
    preprocess*) mkdir -p runs/infer_310/inputs ;;
esac
"""


@pytest.fixture
def tree(tmp_path):
    """A copy of the scripts in a tree whose programs print their arguments."""
    root = tmp_path / "tree"
    shutil.copytree(REPOSITORY / "scripts", root / "scripts")
    shutil.copytree(REPOSITORY / "deploy", root / "deploy", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "requirements.txt", root)
    for name in (".venv/bin/python", "ascend310_infer/build/coupalign"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(PROGRAM)
        (root / name).chmod(0o755)
    (root / "ascend310_infer/build.sh").write_text('echo "Built target of $MS_LITE_HOME"')
    (root / ".venv/bin/activate").write_text(f"PATH={root}/.venv/bin:$PATH")
    digest = hashlib.sha256((root / "requirements.txt").read_bytes()).hexdigest()[:12]
    (root / f".venv/installed-{digest}-requirements.txt").touch()
    for name in ("g.mindir", "g.json", "c.yaml"):
        (root / name).touch()
    for name in ("data", "lite"):
        (root / name).mkdir()
    return root


def run(tree: Path, *arguments: str, script: str = "run_infer_310.sh", **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(tree / "scripts" / script), *arguments],
        cwd=tree,
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["g.mindir", "c.yaml"], "MINDIR, CONFIG and DATA_DIR are needed"),
        (["g.mindir", "c.yaml", "data", "GPU"], "DEVICE_TYPE is GPU: choose Ascend or CPU"),
        (["g.mindir", "c.yaml", "data", "CPU", "first"], "DEVICE_ID is first: give a whole number"),
        (["none.mindir", "c.yaml", "data"], "no graph none.mindir: make it with export.py"),
        (["c.yaml", "c.yaml", "data"], "no c.yaml.json: export.py writes it beside c.yaml"),
        (["g.mindir", "none.yaml", "data"], "no configuration file none.yaml"),
        (["g.mindir", "c.yaml", "none"], "no directory none: make it with prepare_data.py"),
        (["g.mindir", "c.yaml", "data"], "MS_LITE_HOME is no directory: let it name MindSpore Lite's (--help)"),
    ],
)
def test_mistakes_are_one_line(tree, arguments, message):
    done = run(tree, *arguments, MS_LITE_HOME="")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == f"error: {message}"


def test_the_programs_are_started_in_turn(tree):
    done = run(tree, "g.mindir", "c.yaml", "data", "CPU", "--eval_limit", "50", MS_LITE_HOME="lite", SPLIT="testA")
    assert (done.returncode, done.stderr) == (0, "")
    common = f"--config {tree}/c.yaml --data_dir {tree}/data"
    lines = [line for line in done.stdout.splitlines() if not line.startswith("==")]
    assert lines[-5:] == [
        f"Built target of {tree}/lite",
        f"python preprocess.py {common} --mindir_path {tree}/g.mindir --split testA --output runs/infer_310/inputs "
        "--eval_limit 50",
        f"coupalign --mindir_path {tree}/g.mindir --device_type CPU --device_id 0 --threads 2 --input0_path "
        "inputs/00_image --input1_path inputs/01_token_ids --input2_path inputs/02_token_mask",
        f"python postprocess.py {common} --split testA --result_path runs/infer_310/result_Files --output "
        "runs/infer_310/scores --eval_limit 50",
        "NN inference",
    ]


def test_what_is_missing_is_said(tree, tmp_path):
    """With nothing but bash and the system's tools in PATH, no Python of these versions is found."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "dirname", "sha256sum", "cut", "cat"):
        (tools / name).symlink_to(shutil.which(name))
    done = run(
        tree,
        "export",
        "lite",
        "tools",
        script="set_up_lite.sh",
        PATH=str(tools),
        PYENV_ROOT=str(tmp_path),
        OpenCV_ROOT=str(tmp_path),
    )
    assert done.returncode == 3
    assert done.stdout.splitlines() == [
        "export: MISSING, no interpreter: no MindIR for Lite 2.0 is made or compared",
        "python: MISSING, no interpreter: deploy/lite_predict.py is not run",
        "tools: MISSING, g++ cmake libopencv-dev: the C++ program is not built, what needs it is not checked",
    ]
    assert run(tree, "gpu", script="set_up_lite.sh").stderr.startswith("error: unexpected argument gpu")
