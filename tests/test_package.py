"""The package's metadata."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tarfile
import zipfile

import pytest

from coupalign.__main__ import main
from coupalign.commands import eval as evaluation
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
    assert set(extras["onnx"]) == requirements("requirements-onnx.txt")
    assert set(extras["serve"]) == requirements("requirements-serve.txt")
    assert set(extras["dev"]) == requirements("requirements-dev.txt") | {"coupalign[demo,onnx,serve]"}

    slim = requirements("deploy/requirements-serve.txt")  # of the service with ONNX Runtime
    assert slim <= requirements("requirements.txt") | requirements("requirements-serve.txt")
    assert requirements("requirements-serve.txt") <= slim


PACKAGE_FILES = {
    str(path.relative_to(REPOSITORY / "src"))
    for path in (REPOSITORY / "src").rglob("*")
    if path.is_file() and path.suffix != ".pyc"
}
RESOURCES = {"default_config.yaml", "configs/refshapes_tiny.yaml"}
RESOURCES |= {"assets/bert-base-uncased-vocab.txt", "assets/refshapes-vocab.txt"}
RESOURCES |= {"assets/refshapes/model.safetensors", "assets/refshapes/config.yaml"}
RESOURCES |= {f"deploy/{path.name}" for path in (REPOSITORY / "deploy").glob("*.*")}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Paths of the wheel and of the source archive, built without a network."""
    directory = tmp_path_factory.mktemp("dist")
    code = f"from hatchling import build; print(build.build_wheel({str(directory)!r}), build.build_sdist({str(directory)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [directory / name for name in done.stdout.split()]


def test_the_wheel_holds_the_package_with_its_data_and_nothing_else(built):
    names = set(zipfile.ZipFile(built[0]).namelist())
    metadata = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    assert {name.split("/", 1)[1] for name in metadata} >= {"METADATA", "RECORD", "licenses/LICENSE"}
    assert names - metadata == PACKAGE_FILES | {f"coupalign/resources/{name}" for name in RESOURCES}
    assert {"coupalign/py.typed", "coupalign/kernels/attention.cc"} < names


def test_the_source_archive_holds_what_the_wheel_is_built_from(built):
    names = {name.split("/", 1)[1] for name in tarfile.open(built[1]).getnames()}
    own = {"README.md", "LICENSE", "pyproject.toml", "PKG-INFO", ".gitignore"}
    assert names == {f"src/{name}" for name in PACKAGE_FILES} | RESOURCES | own


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


def test_the_console_command_runs_the_programs(capsys):
    arguments = ["--checkpoint", "none.ckpt"]
    assert main(["eval", *arguments]) == evaluation.main(arguments) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == second and "no checkpoint none.ckpt" in first
    assert main(["evla"]) == 2 and "'evla'" in capsys.readouterr().err
    assert main(["--help"]) == 0
    offered = capsys.readouterr().out
    programs = {path.stem for path in REPOSITORY.glob("*.py")} - {"mindspore_hub_conf"}
    assert len(programs) > 8 and all(f"  {name} " in offered for name in programs)
