"""Where the tests of shell scripts run them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from coupalign.files import REPOSITORY

# A Python that answers the scripts' own questions and prints all other calls.
PYTHON = """#!/bin/sh
case "$*" in *scripts/missing.py*|-c*|*--version) exit 0 ;; esac
"""


def make_tree(root: Path, programs: Mapping[str, str]) -> Path:
    """Returns `root` with a copy of scripts/, an environment env/ of these programs, a c.yaml, a b.ckpt and data/."""
    shutil.copytree(REPOSITORY / "scripts", root / "scripts")
    shutil.copy(REPOSITORY / "requirements.txt", root)
    for name, text in programs.items():
        write_program(root / "env/bin" / name, text)
    (root / "c.yaml").touch()
    (root / "b.ckpt").touch()
    (root / "data").mkdir()
    return root


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def environment(tree: Path, **variables: str) -> dict[str, str]:
    """Returns variables with which the scripts find the environment of `tree` active."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**kept, "VIRTUAL_ENV": str(tree / "env"), **variables}


def run(tree: Path, script: str, *arguments: str, cwd: Path | None = None, **variables: str):
    """Runs a script of `tree` to its end, as text."""
    return subprocess.run(
        ["bash", str(tree / "scripts" / script), *arguments],
        cwd=cwd or tree,
        env=environment(tree, **variables),
        capture_output=True,
        text=True,
        timeout=60,
    )
