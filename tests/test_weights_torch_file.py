"""PyTorch and safetensors files of every type and layout; files that hold code or are damaged."""

from __future__ import annotations

import argparse
import collections
import io
import os
import pickle
import sys
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save as save_safetensors

from coupalign.checkpoints.source import read_weights
from coupalign.errors import UserError

FORMATS = {"zip": True, "legacy": False}


def tensors() -> dict[str, torch.Tensor]:
    """A tensor of every dtype, and every layout in a storage."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 5, 4, generator=generator)
    kinds = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split()
    return {kind: (10 * base).to(getattr(torch, kind)) for kind in kinds} | {
        "transposed": base.permute(2, 0, 1),
        "offset": base[2:, 1:3],
        "strided": base[::2, ::3, 1::2],
        "shared": base,
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(base * 2),
    }


def saved(path, content, is_zip: bool):
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    return path


@pytest.mark.parametrize("is_zip", FORMATS.values(), ids=FORMATS)
def test_every_type_and_layout(tmp_path, is_zip):
    found = read_weights(saved(tmp_path / "a.pth", collections.OrderedDict(tensors()), is_zip)).tensors
    assert list(found) == list(tensors())
    for name, tensor in tensors().items():
        tensor = tensor.detach().float() if tensor.dtype == torch.bfloat16 else tensor.detach()
        assert found[name].dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(found[name], tensor.numpy(), err_msg=name)


class CfgNode(dict):
    """Takes the place of the class of yacs, which checkpoints of the official Swin code contain."""


@pytest.mark.parametrize("is_zip", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_training_states_beside_the_weights_are_left_out(tmp_path, is_zip, key, monkeypatch):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    monkeypatch.setattr(CfgNode, "__module__", "yacs.config")
    monkeypatch.setitem(sys.modules, "yacs", argparse)  # pickle only checks that the name resolves
    monkeypatch.setitem(sys.modules, "yacs.config", sys.modules[__name__])
    config = CfgNode(model=CfgNode(depths=[2, 2]), lr=1.0)
    config.__dict__["frozen"] = True
    content = {
        "epoch": 3,
        key: module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=1.0, nested=argparse.Namespace(names=["a"])),
        "config": config,
    }
    path = saved(tmp_path / "a.pth", content, is_zip)
    monkeypatch.undo()
    found = read_weights(path).tensors
    assert list(found) == list(module.state_dict())
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(found[name], tensor.numpy())


def test_without_pytorch_only_its_files_are_refused(tmp_path, monkeypatch):
    saved(tmp_path / "a.pth", {"w": torch.ones(2)}, True)
    (tmp_path / "a.safetensors").write_bytes(save_safetensors({"w": torch.ones(2)}))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="a.pth is a PyTorch file: pip install torch"):
        read_weights(tmp_path / "a.pth")
    assert read_weights(tmp_path / "a.safetensors").tensors["w"].tolist() == [1, 1]


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("is_zip", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("name", ["a.pth", "pytorch_model.bin"])
@pytest.mark.parametrize("place", ["tensor", "beside", "whole"])
def test_a_file_that_asks_to_run_something_is_refused_and_leaves_no_trace(tmp_path, is_zip, name, place):
    evil = Evil(f"touch {tmp_path}/trace")
    content = {
        "tensor": {"model": {"w": evil}},
        "beside": {"model": {"w": torch.ones(2)}, "config": evil},
        "whole": evil,
    }[place]
    path = saved(tmp_path / name, content, is_zip)
    with pytest.raises(UserError, match=r"more than tensors \(GLOBAL posix\.system\).*save its \"model\"") as caught:
        read_weights(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"w": 3}, "state_dict"),
        ([torch.ones(2)], "state_dict"),
        ({}, "state_dict"),
        ({"model": {"w": torch.ones(2), "n": 3}}, "state_dict"),
        (torch.nn.Linear(2, 2), r"GLOBAL torch\.nn\.modules\.linear\.Linear"),
    ],
)
def test_content_that_is_no_state_dict_is_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read_weights(saved(tmp_path / "a.pth", content, True))


def test_files_that_hold_no_weights(tmp_path):
    for content, message in {
        b"<!DOCTYPE html><html>": "is a web page",
        b"\n <html>": "is a web page",
        b"version https://git-lfs.github.com/spec/v1\n": "Git LFS",
        b"\x1f\x8b\x08": "unpack",
        b"": "neither",
        b"garbage" * 9: "neither",
        pickle.dumps({"w": np.ones(2)}): "neither",
        b"\x10\0\0\0\0\0\0\0{broken header}}": "safetensors",
        b"\xff\xff\xff\xff\xff\xff\xff\x7f{": "safetensors",
        save_safetensors({}): "no tensors",
    }.items():
        path = tmp_path / "weights.pth"
        path.write_bytes(content)
        with pytest.raises(UserError, match=message) as caught:
            read_weights(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with zipfile.ZipFile(tmp_path / "photos.pth", "w") as archive:
        archive.writestr("photos/a.jpg", b"")
    for name, message in [
        ("photos.pth", "not a PyTorch file"),
        ("none.pth", "check the path"),
        (".", "check the path"),
    ]:
        with pytest.raises(UserError, match=message):
            read_weights(tmp_path / name)


def test_safetensors_of_every_type_equal_pytorch(tmp_path):
    expected = {name: tensor.detach().contiguous().clone() for name, tensor in tensors().items()}
    (tmp_path / "a.bin").write_bytes(save_safetensors(expected))
    found = read_weights(tmp_path / "a.bin").tensors
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        np.testing.assert_array_equal(found[name], tensor.numpy(), err_msg=name)


def _small(is_zip: bool) -> bytes:
    buffer = io.BytesIO()
    saved(buffer, {"model": {"a": torch.ones(3, 2), "b": torch.ones(2).half()}, "epoch": 1}, is_zip)
    return buffer.getvalue()


SMALL = {
    **{name: _small(is_zip) for name, is_zip in FORMATS.items()},
    "safetensors": save_safetensors({"a": torch.ones(3, 2), "b": torch.ones(2).half()}),
}


@pytest.mark.parametrize("whole", SMALL.values(), ids=SMALL)
@settings(max_examples=200)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path_factory, whole, data):
    changed = bytearray(whole[: data.draw(st.sampled_from([len(whole), len(whole) // 2, len(whole) - 9]))])
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "a.pth"
    path.write_bytes(changed)
    try:
        found = read_weights(path).tensors
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert all(isinstance(value, np.ndarray) for value in found.values())
