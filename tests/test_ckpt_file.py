"""Checkpoint files of MindSpore, read as MindSpore reads them."""

from __future__ import annotations

import mindspore
import numpy as np
import pytest
from mindspore import Tensor

from coupalign.checkpoints.ckpt_file import read_ckpt


@pytest.mark.parametrize("checksum", [False, True])
def test_entries_are_those_that_mindspore_reads(checksum, tmp_path):
    random = np.random.default_rng(0)
    values = {
        "weight": random.standard_normal((3, 4)).astype(np.float32),
        "scalar": np.array(2.5, np.float32),
        "half": random.standard_normal(5).astype(np.float16),
        "count": np.array([1, -2, 3], np.int32),
        "flags": np.array([True, False]),
        "large": random.standard_normal((600, 1024)).astype(np.float32),  # saved in several parts
    }
    path = tmp_path / "a.ckpt"
    saved = [{"name": name, "data": Tensor(value)} for name, value in values.items()]
    mindspore.save_checkpoint(saved, str(path), append_dict={"note": "text, Ü"}, crc_check=checksum)
    ours, theirs = read_ckpt(path), mindspore.load_checkpoint(str(path))
    assert list(ours) == list(theirs) == [*values, "note"]
    assert ours.pop("note") == theirs.pop("note") == "text, Ü"
    for name, each in ours.items():
        assert (each.name, each.dtype, each.shape) == (name, theirs[name].dtype, theirs[name].shape)
        np.testing.assert_array_equal(each.asnumpy(), values[name])


@pytest.mark.parametrize("cut", [1, 20, 100, -1])
def test_a_file_that_ends_early_is_refused(cut, tmp_path):
    path = tmp_path / "a.ckpt"
    mindspore.save_checkpoint([{"name": "weight", "data": Tensor(np.ones(30, np.float32))}], str(path))
    content = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(content[:cut])
    with pytest.raises(ValueError, match="."):
        read_ckpt(path)
