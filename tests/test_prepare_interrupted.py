"""prepare_data.py that is interrupted, killed, or runs out of disk: nothing half made is taken for complete."""

from __future__ import annotations

import fcntl
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from mindspore.mindrecord import FileReader

import prepare_data
from coupalign.config import load_config
from coupalign.data import prepare as prepare_module
from coupalign.data.convert import SCENES_PER_PART
from coupalign.data.dataset import Split
from tests.test_prepare_data import _state


def _rows(directory: Path, max_tokens: int) -> str:
    """All content of a prepared data set."""
    content = []
    for split in json.loads((directory / "meta.json").read_text())["splits"]:
        for part in ("images", "masks", "expressions"):
            reader = FileReader(str(directory / f"{split}.{part}.mindrecord"))
            content += [{name: np.asarray(value).tolist() for name, value in row.items()} for row in reader.get_next()]
            reader.close()
    assert {len(row["token_ids"]) for row in content if "token_ids" in row} == {max_tokens}
    return repr(content)


def _rows_of_a_fresh_directory(arguments: list[str], tmp_path: Path, max_tokens: int) -> str:
    fresh = tmp_path / "fresh"
    assert prepare_data.main([*arguments, "--output", str(fresh), "--max_tokens", str(max_tokens)]) == 0
    return _rows(fresh, max_tokens)


def test_an_interrupted_preparation_is_not_taken_for_complete(prepare_arguments, tmp_path, monkeypatch):
    prepare_data.main(prepare_arguments)
    before = _state(tmp_path / "data")

    def failing(directory, split, *_):
        (directory / f"{split}.images.mindrecord").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "write_split", failing)
        assert prepare_data.main([*prepare_arguments, "--max_tokens", "31"]) == 130
    assert {name: state for name, state in _state(tmp_path / "data").items() if not name.startswith(".")} == before
    assert prepare_data.main([*prepare_arguments, "--max_tokens", "31"]) == 0
    assert _rows(tmp_path / "data", 31) == _rows_of_a_fresh_directory(prepare_arguments, tmp_path, 31)
    assert not list((tmp_path / "data").glob(".*"))


def test_interrupted_between_old_and_new_files_the_next_run_completes(prepare_arguments, tmp_path, monkeypatch):
    prepare_data.main(prepare_arguments)
    replace, moved = Path.replace, []

    def interrupted(path, target):
        if len(moved) == 5:
            raise KeyboardInterrupt
        moved.append(replace(path, target))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        assert prepare_data.main([*prepare_arguments, "--max_tokens", "31"]) == 130
    assert not (tmp_path / "data/meta.json").exists()
    assert prepare_data.main([*prepare_arguments, "--max_tokens", "31"]) == 0
    assert _rows(tmp_path / "data", 31) == _rows_of_a_fresh_directory(prepare_arguments, tmp_path, 31)


def _interrupt(arguments, monkeypatch):
    """Interrupts a preparation after it converted the train split."""
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "write_split", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert prepare_data.main(arguments) == 130


def test_parts_of_an_unfinished_preparation_with_other_contents_are_not_used(
    handmade, prepare_arguments, tmp_path, monkeypatch
):
    _interrupt(prepare_arguments, monkeypatch)
    picture = 255 - cv2.imread(str(handmade.images / "b.png"))
    cv2.imwrite(str(handmade.images / "b.png"), picture)
    assert prepare_data.main(prepare_arguments) == 0
    (seen,) = Split(load_config(overrides={"data_dir": str(tmp_path / "data")}), "val").pictures([0], 1)
    np.testing.assert_array_equal(seen["image"], picture[..., ::-1])


def test_two_at_once_are_refused(prepare_arguments, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    handle = os.open(tmp_path / "data", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert prepare_data.main(prepare_arguments) == 2
    assert "another prepare_data.py is running in" in capsys.readouterr().err
    os.close(handle)
    assert prepare_data.main(prepare_arguments) == 0


def test_a_full_disk_leaves_nothing_that_looks_finished(prepare_arguments, tmp_path):
    # A limit on the size of files is met like a full disk: in the midst of writing, and by every writer.
    program = (
        "import resource, signal, sys, prepare_data; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY)); "
        "sys.exit(prepare_data.main(sys.argv[1:]))"
    )
    ended = subprocess.run([sys.executable, "-c", program, *prepare_arguments], capture_output=True, text=True)
    assert ended.returncode == 2, ended.stderr
    assert "cannot be written" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "data/meta.json").exists()
    assert prepare_data.main(prepare_arguments) == 0
    assert _rows(tmp_path / "data", 30) == _rows_of_a_fresh_directory(prepare_arguments, tmp_path, 30)


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_content(handmade, prepare_arguments, tmp_path):
    # Several files of drawn scenes a split, so that there is something to go on with.
    random.seed(0)
    for number in range(SCENES_PER_PART * 5):
        name = f"{number}.png"
        (handmade.images / name).write_bytes((handmade.images / "b.png").read_bytes())
        handmade.instances["images"].append({"id": 100 + number, "file_name": name, "height": 50, "width": 30})
        handmade.instances["annotations"].append(
            {**handmade.instances["annotations"][3], "id": 100 + number, "image_id": 100 + number}
        )
        handmade.refs.append(
            handmade.ref(100 + number, 100 + number, 100 + number, 2, "train", {1000 + number: f"dog number {number}"})
        )
    handmade.write()
    command = [sys.executable, "prepare_data.py", *prepare_arguments, "--workers", "2"]
    work = tmp_path / "data"
    for _ in range(5):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not list(work.glob(".unfinished-*")):
            time.sleep(0.01)
        time.sleep(random.uniform(0, 3))
        process.kill()
        process.wait()
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0
    assert _rows(work, 30) == _rows_of_a_fresh_directory(prepare_arguments, tmp_path, 30)
