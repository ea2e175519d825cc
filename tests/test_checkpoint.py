"""Checkpoints of weights: loading, what is refused, and the configuration beside them."""

from __future__ import annotations

import os

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn

from coupalign.checkpoints.loading import MODEL_PREFIXES, load_checkpoint
from coupalign.errors import UserError
from coupalign.model import build_model


class Model(nn.Cell):
    """Stands in for CoupAlign: parameters in two of its rooms."""

    def __init__(self, dim: int = 3):
        super().__init__()
        self.sma = nn.Dense(dim, 2)
        self.seg_head = nn.Conv2d(dim, 4, 1)


def saved(path, values: dict[str, np.ndarray]):
    parameters = [{"name": name, "data": Tensor(value)} for name, value in values.items()]
    mindspore.save_checkpoint(parameters, str(path))
    return path


def values(dim: int = 3, dtype=np.float32) -> dict[str, np.ndarray]:
    random = np.random.default_rng(dim)
    shapes = {"sma.weight": (2, dim), "sma.bias": (2,), "seg_head.weight": (4, dim, 1, 1)}
    return {name: random.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def held(model: nn.Cell) -> dict[str, np.ndarray]:
    return {name: parameter.asnumpy().copy() for name, parameter in model.parameters_dict().items()}


def refused(path, model: nn.Cell) -> str:
    before = held(model)
    with pytest.raises(UserError) as caught:
        load_checkpoint(path, model)
    for name, value in held(model).items():
        np.testing.assert_array_equal(value, before[name], err_msg=f"{name} was touched")
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


def test_every_parameter_is_set_and_the_optimisers_are_ignored(tmp_path):
    extra = {"moment1.sma.weight": np.ones((2, 3), np.float32), "global_step": np.array([3], np.int32)}
    model = Model()
    load_checkpoint(saved(tmp_path / "a.ckpt", {**values(), **extra}), model)
    for name, value in held(model).items():
        np.testing.assert_array_equal(value, values()[name])


@pytest.mark.parametrize(("stored", "own"), [(np.float16, np.float32), (np.float32, np.float16)])
def test_another_precision_is_read_in_the_models_own(tmp_path, stored, own):
    model = Model()
    for parameter in model.get_parameters():
        parameter.set_dtype(mindspore.float16 if own is np.float16 else mindspore.float32)
    load_checkpoint(saved(tmp_path / "a.ckpt", values(dtype=stored)), model)
    for name, value in held(model).items():
        assert value.dtype == own
        np.testing.assert_array_equal(value, values(dtype=stored)[name].astype(own))


def test_checkpoints_of_another_configuration(tmp_path):
    some = values()
    del some["sma.bias"]
    message = refused(saved(tmp_path / "lacks.ckpt", some), Model())
    assert "lacks sma.bias: " in message and "--config" in message
    more = {**values(), **{f"wpa.{k}.weight": np.ones(2, np.float32) for k in range(5)}}
    message = refused(saved(tmp_path / "more.ckpt", more), Model())
    assert "unexpected wpa.0.weight, wpa.1.weight, wpa.2.weight and 2 more" in message
    message = refused(saved(tmp_path / "shape.ckpt", values(5)), Model(3))
    assert "sma.weight (2, 5) instead of (2, 3)" in message and "seg_head.weight (4, 5, 1, 1)" in message


@pytest.mark.parametrize("name", ["garbage.ckpt", "cut.ckpt", "empty.ckpt"])
def test_broken_files(tmp_path, name):
    whole = saved(tmp_path / "whole.ckpt", values()).read_bytes()
    content = {"garbage.ckpt": b"\x00garbage" * 50, "cut.ckpt": whole[:-7], "empty.ckpt": b""}[name]
    (tmp_path / name).write_bytes(content)
    assert "damaged" in refused(tmp_path / name, Model())


def test_missing_files_and_files_that_are_not_checkpoints(tmp_path):
    assert "no checkpoint" in refused(tmp_path / "none.ckpt", Model())
    assert "no checkpoint" in refused(tmp_path, Model())
    (tmp_path / "weights.pth").write_bytes(b"PK")
    assert "convert_weights.py" in refused(tmp_path / "weights.pth", Model())


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.ckpt", values())
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read everything
    assert "permissions" in refused(path, Model())


def test_the_rooms_of_a_model_are_known(tiny_config):
    names = {name.split(".")[0] for name in build_model(tiny_config).parameters_dict()}
    assert names | {"mask_proj", "existence"} == MODEL_PREFIXES
