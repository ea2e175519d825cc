"""The package's metadata."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

from coupalign.files import REPOSITORY

tomllib = pytest.importorskip("tomllib")  # Python 3.11


def requirements(name):
    lines = (REPOSITORY / name).read_text(encoding="utf-8").splitlines()
    return {line for line in lines if line and not line.startswith(("#", "-r"))}


def test_the_package_requires_what_the_scripts_install():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert set(project["dependencies"]) == requirements("requirements.txt")
    assert set(extras["demo"]) == requirements("requirements-demo.txt")
    assert set(extras["dev"]) == requirements("requirements-dev.txt") | {"coupalign[demo]"}


def test_missing_requirements_are_named(tmp_path):
    installed = importlib.metadata.version("numpy")
    (tmp_path / "more.txt").write_text("no-such-package>=1  # unused\n")
    (tmp_path / "r.txt").write_text(f"-r more.txt\nnumpy=={installed}\nnumpy<1\n")
    command = [sys.executable, REPOSITORY / "scripts/missing.py", tmp_path / "r.txt"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "no-such-package>=1 numpy<1\n"


def test_predictor_is_found_without_other_packages():
    """-S leaves site-packages out."""
    code = f"import sys; sys.path.insert(0, {str(REPOSITORY / 'src')!r}); import coupalign; coupalign.Predictor"
    subprocess.run([sys.executable, "-S", "-c", code], check=True)
