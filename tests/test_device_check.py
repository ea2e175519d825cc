"""check-device: every row passes on the CPU, and each fails by name when what it checks is broken on purpose."""

from __future__ import annotations

import json
import subprocess
import time

import numpy as np
import pytest
from mindspore import ops

from coupalign import devices
from coupalign.commands import check_device
from coupalign.config import load_config
from coupalign.device_check import paper_size, worker
from coupalign.device_check.modules import REFERENCES
from coupalign.device_check.rows import ROWS
from coupalign.device_check.versions import check_versions
from coupalign.loss import SegmentationLoss
from coupalign.model import dropout
from coupalign.model.windows import Permute
from tests import device_references
from tests.conftest import SMALLEST
from tests.tiny_model import TinyModel


@pytest.mark.slow
@pytest.mark.dist
def test_every_row_passes_on_the_cpu(tmp_path, capfd):
    assert check_device.main(["--output", str(tmp_path / "check.json")]) == 0
    result = json.loads((tmp_path / "check.json").read_text())
    found = {row["row"]: row["status"] for row in result["rows"]}
    assert found == {name: "SKIP" if name in ("curve_bf16", "paper_size") else "PASS" for name in ROWS}
    assert [line.split()[0] for line in capfd.readouterr().out.splitlines()[1:-1]] == list(ROWS)
    resumed = next(row for row in result["rows"] if row["row"] == "resume")
    assert resumed["difference"] == 0


def wrong_bprop(self, x, out, dout):
    return (dout,)


def wrong_loss(self, logits, mask):
    return self.loss(logits, mask).mean() * 1.001


def wrong_hash(x, factor):
    return ops.bitwise_and(x, 0xFFFF) * (factor - 2) + ops.bitwise_right_shift(x, 16)


def never_skips(self, x):
    return ops.ones_like(x) > 0


BREAKS = {
    "a wrong gradient": (Permute, "bprop", wrong_bprop, ["swin_stage"]),
    "a wrong loss": (SegmentationLoss, "construct", wrong_loss, ["segmentation_loss"]),
    "a wrong dropout mask": (dropout, "multiply_with_carry", wrong_hash, ["dropout"]),
    "a missing overflow skip": (devices.AllFinite, "construct", never_skips, ["skipped_step", "overflow"]),
}


@pytest.mark.slow
@pytest.mark.parametrize(("owner", "name", "wrong", "failing"), BREAKS.values(), ids=BREAKS)
def test_a_row_fails_for_what_is_broken(tmp_path, monkeypatch, owner, name, wrong, failing):
    """`gate`, which uses nothing of it, passes."""
    config = load_config()
    devices.set_up(config.run)
    monkeypatch.setattr(owner, name, wrong)
    found = {row: worker.check(row, config, tmp_path, 0.0).status for row in ("gate", *failing)}
    assert found == {"gate": "PASS", **dict.fromkeys(failing, "FAIL")}


@pytest.mark.slow
def test_a_crash_is_the_failure_of_one_row(tmp_path, monkeypatch, capfd):
    """The process that would run `gate` ends; the other rows run in another one."""
    code = "import os, coupalign.device_check.modules as m; m.MODULES['gate'] = lambda: os._exit(9)"
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nif 'gate' in sys.argv:\n    {code}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    output = tmp_path / "check.json"
    assert check_device.main(["--rows", "segmentation_loss,gate,dropout", "--output", str(output)]) == 1
    result = json.loads(output.read_text())
    assert [row["status"] for row in result["rows"]] == ["PASS", "FAIL", "PASS"] and result["failed"] == ["gate"]
    assert "code 9" in result["rows"][1]["note"] and "FAIL: gate" in capfd.readouterr().out


@pytest.mark.parametrize("arguments", ["--rows gates", "--device_target TPU", "--output none.json/check.json"])
def test_mistakes_are_refused(refuses, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none.json").touch()
    assert arguments.split()[1].split("/")[0] in refuses(check_device.main, arguments.split())


ASCEND = {"mindspore": "2.9.0", "mindformers": "1.9.0", "cann": "9.0.0", "driver": "26.0.RC1"}
GPU = {"mindspore": "2.9.0", "mindformers": "1.9.0", "cuda": "11.6", "driver": "535"}


@pytest.mark.parametrize(
    ("target", "found", "status", "named"),
    [
        ("Ascend", ASCEND, "PASS", "cann 9.0.0"),
        ("Ascend", {**ASCEND, "cann": "8.5.0"}, "WARN", "CANN 9.0.0"),
        ("Ascend", {**ASCEND, "cann": "8.1.RC1"}, "FAIL", "CANN 9.0.0"),
        ("Ascend", {**ASCEND, "cann": "unknown"}, "WARN", "set_env.sh"),
        ("Ascend", {**ASCEND, "driver": "25.2.0"}, "WARN", "26.0.RC1"),
        ("Ascend", {**ASCEND, "mindformers": "2.0.0"}, "FAIL", "mindformers 1.9.0"),
        ("GPU", GPU, "PASS", "cuda 11.6"),
        ("GPU", {**GPU, "cuda": "12.4"}, "FAIL", "11.6"),
        ("CPU", {"mindspore": "3.0.0", "mindformers": "1.9.0"}, "WARN", "3.0.0"),
    ],
)
def test_versions_that_do_not_belong_together(target, found, status, named):
    outcome = check_versions(found, target)
    assert outcome.status == status and named in outcome.note


def test_the_keys_for_16_samples_follow_from_the_batch_that_fits(tmp_path, monkeypatch):
    """Where batch 1 does not fit, recomputation is measured; where time is short, memory is extrapolated."""

    def fake(largest, recomputed):
        def run(command, **_):
            config, batch = load_config(command[-2]), int(command[-1])
            if batch > (recomputed if config.training.recompute else largest):
                return subprocess.CompletedProcess(command, 1, "", "RuntimeError: Out of memory: 3 GB")
            figures = {"seconds": 0.5, "gigabytes": 10.0 * batch, "total": 64.0}
            return subprocess.CompletedProcess(command, 0, json.dumps(figures) + "\n", "")

        return run

    for largest, recomputed, advice in (
        (4, 8, "accumulation_steps 4, recompute false"),
        (16, 16, "accumulation_steps 1, recompute false"),
        (0, 2, "accumulation_steps 8, recompute true"),
    ):
        monkeypatch.setattr(subprocess, "run", fake(largest, recomputed))
        outcome = paper_size.measure_steps(load_config(), tmp_path, time.monotonic() + 60)
        assert outcome.status == "PASS" and outcome.note.endswith(advice)

    def late(command, **options):
        if int(command[-1]) > 2:
            raise subprocess.TimeoutExpired(command, 1)
        return fake(16, 16)(command, **options)

    monkeypatch.setattr(subprocess, "run", late)
    outcome = paper_size.measure_steps(load_config(), tmp_path, time.monotonic() + 60)
    assert outcome.status == "PASS" and outcome.note.endswith("accumulation_steps 4, recompute false")
    monkeypatch.setattr(subprocess, "run", fake(0, 0))
    outcome = paper_size.measure_steps(load_config(), tmp_path, time.monotonic() + 60)
    assert outcome.status == "FAIL" and "Out of memory" in outcome.note


def test_a_step_is_measured(monkeypatch):
    monkeypatch.setattr("coupalign.model.build_model", lambda _: TinyModel())
    figures = paper_size.main(load_config(overrides={**SMALLEST, "aux_loss_weight": 0.0}), 1)
    assert figures["seconds"] > 0


@pytest.mark.parametrize("module", ["gate", "contrastive_loss", "bert_layer", "batch_norm", "adamw", "dropout"])
def test_the_references_are_those_of_the_script(module):
    with np.load(REFERENCES) as file:
        kept = {name.partition("/")[2]: file[name] for name in file if name.startswith(f"{module}/")}
    made = device_references.CASES[module]()
    assert made.keys() == kept.keys()
    for name, array in made.items():
        np.testing.assert_allclose(kept[name], array, rtol=1e-6, atol=1e-9, err_msg=name)
