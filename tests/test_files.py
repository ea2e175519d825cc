from __future__ import annotations

import hashlib
import os

import pytest

from coupalign.errors import UserError
from coupalign.files import REPOSITORY, atomic_path, find_file, make_directory, sha256


def test_atomic_path_makes_directories_and_leaves_only_the_file(tmp_path):
    target = tmp_path / "a" / "b" / "result.json"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent and temporary.suffix == ".json"
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert os.listdir(target.parent) == ["result.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failing_block_keeps_what_was_there(tmp_path, error):
    target = tmp_path / "result.json"
    target.write_text("old")
    with pytest.raises(error), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.json"]


def test_atomic_path_does_not_swallow_the_blocks_own_os_errors(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "out") as temporary:
        temporary.write_text("x")
        (tmp_path / "something else").read_text()


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file cannot be a directory"), atomic_path(tmp_path / "file" / "result.json"):
        raise AssertionError("the block must not run")
    with pytest.raises(UserError, match="is a directory, not a file"), atomic_path(tmp_path):
        raise AssertionError("the block must not run")
    with pytest.raises(UserError, match="cannot be a directory"):
        make_directory(tmp_path / "file")


def test_a_long_name_and_a_name_without_suffix(tmp_path):
    for name in ("x" * 250, "plain"):
        with atomic_path(tmp_path / name) as temporary:
            temporary.write_text(name[:1])
        assert (tmp_path / name).read_text() == name[:1]


def test_relative_paths_mean_the_working_directory_then_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_file("default_config.yaml") == REPOSITORY / "default_config.yaml"
    (tmp_path / "default_config.yaml").write_text("")
    assert find_file("default_config.yaml").resolve() == tmp_path / "default_config.yaml"
    assert str(find_file("nowhere/x")) == "nowhere/x"
    assert find_file(tmp_path / "absolute") == tmp_path / "absolute"


def test_sha256(tmp_path):
    content = os.urandom((1 << 20) + 3)
    (tmp_path / "x").write_bytes(content)
    assert sha256(tmp_path / "x") == hashlib.sha256(content).hexdigest()
