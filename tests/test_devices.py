"""The settings and refusals of platforms, on a machine that has only a CPU."""

from __future__ import annotations

import mindspore
import pytest

from coupalign import devices
from coupalign.config import ConfigError, load_config
from coupalign.errors import UserError


@pytest.mark.parametrize(("device", "level"), [("GPU", "O1"), ("CPU", None)])
def test_constants_keep_their_memory_on_the_gpu(device, level, monkeypatch):
    """At MindSpore's default level, an H200 diverged from the second update on."""
    selected, settings = [], {}
    monkeypatch.setattr(mindspore, "set_device", selected.append)
    monkeypatch.setattr(mindspore, "set_context", lambda **named: settings.update(named))
    devices.set_up(load_config(overrides={"device_target": device}).run)
    assert selected == [device] and settings.get("memory_optimize_level") == level


@pytest.mark.parametrize("device", ["Ascend", "GPU"])
def test_an_unavailable_device_is_refused_with_the_reason_of_mindspore(device):
    with pytest.raises(
        UserError, match=rf"device_target {device} .*only supports one of the \['CPU'\].*--device_target"
    ):
        devices.set_up(load_config(overrides={"device_target": device}).run)
    assert mindspore.get_context("device_target") == "CPU"


@pytest.mark.parametrize("device", ["CPU", "GPU"])
def test_bf16_is_refused_where_mindspore_has_no_kernels_for_it(device):
    with pytest.raises(ConfigError, match=f"bf16 .*{device}.* fp32 or fp16"):
        load_config(overrides={"device_target": device, "precision": "bf16"})


def test_a_device_in_use_can_be_selected_again():
    mindspore.Tensor([1.0]).add(1).asnumpy()  # starts MindSpore's runtime, after which set_device fails
    devices.set_up(load_config().run)
