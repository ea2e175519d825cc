"""What MindSpore is told before anything runs."""

from __future__ import annotations

import mindspore
import pytest

from coupalign import context
from coupalign.config import load_config


@pytest.mark.parametrize(("device", "level"), [("GPU", "O1"), ("CPU", None)])
def test_constants_keep_their_memory_on_the_gpu(device, level, monkeypatch):
    """At MindSpore's own level an H200 learnt garbage from the second update on; MindSpore there is told of another."""
    told = {}
    monkeypatch.setattr(mindspore, "set_context", lambda **named: told.update(named))
    monkeypatch.setattr(context.devices, "initialise", lambda config: None)
    context.set_up(load_config(overrides={"device_target": device}))
    assert told["device_target"] == device and told.get("memory_optimize_level") == level
