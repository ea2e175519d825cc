"""Imports of the package point in one direction, and light commands do not load heavy modules."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from coupalign.files import REPOSITORY

# From the bottom to the top. A module imports from its own room and from rooms on lower levels.
LEVELS = """
errors | files signals | overlay | config_sections | config | cli devices | data | annotations checks refshapes model | loss | kernels |
checkpoints | evaluation | inference training | visual | demo device_check service study | commands | __main__
"""
LEVEL = {room: level for level, rooms in enumerate(LEVELS.split("|")) for room in rooms.split()}
PACKAGE = REPOSITORY / "src/coupalign"


def wrong_imports(path):
    module = path.relative_to(PACKAGE).with_suffix("")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in getattr(node, "names", [])] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for room in {name.split(".")[1] for name in names if name.startswith("coupalign.")}:
            if room != module.parts[0] and LEVEL[room] >= LEVEL[module.parts[0]]:
                yield f"{'.'.join(module.parts)} -> {room}"


def test_imports_point_one_way():
    modules = [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem in LEVEL]
    assert {each for path in modules for each in wrong_imports(path)} == set()


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        # Threads that NumPy starts would take the signals that a training saves at.
        ("coupalign.commands.train", "mindspore, numpy"),
        ("coupalign.visual.curves", "mindspore"),
        ("coupalign.service.server", "mindspore"),
        ("coupalign.training", "coupalign.refshapes, coupalign.data.prepare, coupalign.data.convert"),
    ],
)
def test_a_module_does_not_load_others(module, unwanted):
    code = f"import sys, {module}; print(sorted(set('{unwanted}'.split(', ')) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
