from __future__ import annotations

import hashlib
import os

import pytest

from coupalign.errors import UserError
from coupalign.files import REPOSITORY, atomic_path, check_directory, check_writable, find_file, make_directory, sha256


def test_atomic_path_makes_directories_and_leaves_only_the_file(tmp_path):
    target = tmp_path / "a" / "b" / "result.json"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent and temporary.suffix == ".json"
        temporary.write_text("complete")
        assert not target.exists()
    assert target.read_text() == "complete"
    assert os.listdir(target.parent) == ["result.json"]


def test_a_file_gets_the_mode_of_the_umask(tmp_path):
    """MindSpore writes checkpoints with mode 0400."""
    before = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "x.ckpt") as temporary:
            temporary.write_text("x")
            temporary.chmod(0o400)
    finally:
        os.umask(before)
    assert (tmp_path / "x.ckpt").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failing_block_keeps_the_old_file(tmp_path, error):
    target = tmp_path / "result.json"
    target.write_text("old")
    with pytest.raises(error), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.json"]


def test_atomic_path_does_not_hide_the_blocks_own_os_errors(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "out") as temporary:
        temporary.write_text("x")
        (tmp_path / "something else").read_text()


@pytest.mark.parametrize("check", [check_directory, make_directory, lambda path: check_writable(path / "x.json")])
def test_a_file_in_place_of_a_directory_is_refused(tmp_path, check):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(UserError, match="file is a file"):
            check(path)
    with pytest.raises(UserError, match="is a directory, not a file"):
        check_writable(tmp_path)
    with pytest.raises(UserError, match="file is a file"), atomic_path(tmp_path / "file" / "result.json"):
        raise AssertionError("the block must not run")


def test_checks_make_nothing(tmp_path):
    assert check_directory(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert check_writable(tmp_path / "a" / "x.json") == tmp_path / "a" / "x.json"
    assert os.listdir(tmp_path) == []


def test_a_long_name_and_a_name_without_suffix(tmp_path):
    for name in ("x" * 250, "plain"):
        with atomic_path(tmp_path / name) as temporary:
            temporary.write_text(name[:1])
        assert (tmp_path / name).read_text() == name[:1]


def test_relative_paths_mean_the_working_directory_then_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_file("default_config.yaml") == REPOSITORY / "default_config.yaml"
    (tmp_path / "default_config.yaml").write_text("")
    assert find_file("default_config.yaml").resolve() == tmp_path / "default_config.yaml"
    assert find_file("~/x") == tmp_path / "x"
    assert str(find_file("nowhere/x")) == "nowhere/x"
    assert find_file(tmp_path / "absolute") == tmp_path / "absolute"


def test_sha256(tmp_path):
    content = os.urandom((1 << 20) + 3)
    (tmp_path / "x").write_bytes(content)
    assert sha256(tmp_path / "x") == hashlib.sha256(content).hexdigest()
