"""The settings and refusals of platforms, on a machine that has only a CPU."""

from __future__ import annotations

import re

import mindspore
import pytest

from coupalign import devices
from coupalign.config import load_config
from coupalign.errors import UserError


@pytest.fixture
def settings(monkeypatch):
    """What ``set_up`` sets, by name, without setting it."""
    found = {}
    monkeypatch.setattr(mindspore, "set_device", lambda device: found.update(device=device))
    monkeypatch.setattr(mindspore, "set_context", lambda **named: found.update(named))
    context = mindspore.device_context
    for module in (context.ascend.op_precision, context.gpu.op_precision):
        for name in [name for name in dir(module) if re.search("allow_(hf|tf)32", name)]:
            monkeypatch.setattr(module, name, lambda value, name=name: found.update({name: value}))
    return found


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("CPU", {}),
        # At MindSpore's default memory_optimize_level, an H200 diverged from the second update on.
        ("GPU", {"matmul_allow_tf32": False, "conv_allow_tf32": False, "memory_optimize_level": "O1"}),
        ("Ascend", {"matmul_allow_hf32": False, "conv_allow_hf32": False}),
    ],
)
@pytest.mark.parametrize("level", ["O0", "O1"])
def test_settings_of_a_device(device, expected, level, settings):
    """float32 is float32; jit_level only concerns GPU and Ascend."""
    devices.set_up(load_config(overrides={"device_target": device, "jit_level": level}).run)
    if device != "CPU":
        expected = {**expected, "jit_config": {"jit_level": level}}
    assert settings == {"device": device, "mode": mindspore.GRAPH_MODE, **expected}


@pytest.mark.parametrize("device", ["Ascend", "GPU"])
def test_an_unavailable_device_is_refused_with_the_reason_of_mindspore(device):
    with pytest.raises(
        UserError, match=rf"device_target {device} .*only supports one of the \['CPU'\].*--device_target"
    ):
        devices.set_up(load_config(overrides={"device_target": device}).run)
    assert mindspore.get_context("device_target") == "CPU"


def test_a_device_in_use_can_be_selected_again():
    mindspore.Tensor([1.0]).add(1).asnumpy()  # starts MindSpore's runtime, after which set_device fails
    devices.set_up(load_config().run)
