"""Every operator of training and prediction, with its types, has a row in operators.csv, which cites its documentation.

The graphs are those of GPU and Ascend: kernels of the CPU and the forms that only suit a CPU are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, mutable, nn, ops

from coupalign import devices
from coupalign.config import load_config
from coupalign.inference.graph import PredictAll
from coupalign.model import build_model
from coupalign.training.build import build_step
from coupalign.training.pretraining import COLUMNS, PretrainingObjective
from tests.conftest import SMALLEST, read_csv
from tests.training_graph import Operator, operators

TABLE = {row["operator"]: row for row in read_csv(Path(__file__).with_name("operators.csv"))}
PAGES = "https://www.mindspore.cn/docs/en/r2.9.0/api_python/ops/mindspore.ops."
MAX_RANK = 8  # of a tensor on Ascend
# Checks of the limits in the table: whether an operator keeps to them.
LIMITS = {
    "": lambda _: True,
    "forbidden": lambda _: False,
    "reduction none": lambda each: re.findall(r"I64\((-?\d+)\)", each.call)[-1] == "0",
    "row by column up to 4096": lambda each: each.output[-2:] != (1, 1) or max(each.shapes[0]) <= 4096,
    "last axis": lambda each: "I64(-1)" in each.call,
    "equal axes": lambda each: len(set(re.findall(r"I64\((-?\d+)\)", each.call))) == 1,
    "up to 64 tensors": lambda each: each.count <= 64,
    "rank up to 5": lambda each: max(map(len, each.shapes)) <= 5,
}


def violations(found: Iterable[Operator]) -> set[str]:
    """A line for each operator without a row, or used with other types or beyond its limit."""
    lines = set()
    for each in found:
        row = TABLE.get(each.name)
        # MindSpore has no bfloat16 kernels for GPU and CPU. On Ascend bfloat16 runs wherever float16 does.
        dtypes = each.dtypes.replace("bfloat16", "float16")
        if row is None:
            lines.add(f"{each.name} ({each.where}): no row in operators.csv")
        elif row["dtypes"] and dtypes not in row["dtypes"].split("; "):
            lines.add(f"{each.name} of {each.dtypes} ({each.where}): its row has {row['dtypes']}")
        elif not LIMITS[row["limit"]](each):
            lines.add(f"{each.name} of {each.dtypes} ({each.where}): {row['limit']}: {row['note']}")
        elif max(map(len, each.shapes), default=0) > MAX_RANK:
            lines.add(f"{each.name} of {each.dtypes} ({each.where}): more than {MAX_RANK} dimensions")
    return lines


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)
def test_rows_agree_with_the_documentation_that_they_cite(row):
    """With that of the installed MindSpore, from which its web pages are made."""
    assert row["page"].startswith(PAGES) and row["page"].endswith(".html") and row["limit"] in LIMITS
    function = getattr(ops, row["page"][len(PAGES) : -len(".html")])
    platforms = re.search(r"Supported Platforms:\s*\n\s*(.*)", function.__doc__)
    assert platforms and re.findall(r"``(\w+)``", platforms[1]) == row["platforms"].split()


def step_and_inputs(precision: str, pretraining: bool, **options):
    config = load_config(overrides={**SMALLEST, "device_target": "Ascend", "precision": precision, **options})
    model = build_model(config)
    extension = (lambda objective: PretrainingObjective(objective, config.model.seg_head_dim), COLUMNS)
    step = build_step(config, model, 10, 2, *(extension if pretraining else ()))
    size, words = config.model.image_size, np.ones((2, config.model.max_tokens), np.int32)
    shapes = [(2, 3, size, size), (2, size, size), (2, 9, size // 4, size // 4), (2, 8, size // 4, size // 4)]
    image, mask, labels, objects = (np.zeros(shape, np.float32) for shape in shapes)
    more = [labels, objects] if pretraining else [objects] if config.losses.object_loss_weight else []
    return step.set_train(), [Tensor(x) for x in (image, words, words, mask, *more)]


SELECTING = {"wpa_norm": True, "cross_attention_norm": True, "query_anchors": True}
SELECTING |= {"object_loss_weight": 1.0, "choice_loss_weight": 0.5, "existence": True}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "ranks", "options"),
    [
        ("fp16", 1, {"accumulation_steps": 2, **SELECTING}),  # with a loss scale
        ("bf16", 2, {"max_grad_norm": 1.0, "ema_decay": 0.9}),
        # What the others lack: padded windows, scores without a bound, schedules by parameter, the pretraining's losses
        (
            "fp32",
            1,
            {
                "aux_normalize": False,
                "aux_log": False,
                "batch_norm": "frozen",
                "learning_rate_scales": ["image_encoder.*=0.1"],
                "pretraining": True,
                "sma": False,
                "swin_window_size": 3,
                "warmup_steps": 2,
                "wpa_direction": "uni",
            },
        ),
    ],
    ids=["fp16", "bf16", "fp32"],
)
def test_every_operator_of_a_training_step(precision, ranks, options, tmp_path, monkeypatch):
    """Losses, gradients and update, with dropout, the auxiliary loss and communication between ranks."""
    monkeypatch.setattr(devices, "_ranks", (0, ranks))
    monkeypatch.setattr(devices, "on_cpu", lambda: False)
    step, inputs = step_and_inputs(precision, **{"pretraining": False, **options})
    found = operators(step, inputs, tmp_path / "gradients")
    if step.accumulates:
        found += operators(step.apply_sums, [], tmp_path / "update")
    else:
        gradients = tuple(Tensor(np.zeros(each.shape, np.float32)) for each in step.apply_update.optimizer.parameters)
        losses = Tensor(np.zeros(3, np.float32))
        found += operators(step.apply_update, [losses, mutable(gradients)], tmp_path / "update")
    expected = {"Conv2DBackpropFilter", "MatMul", "BitwiseXor", "TensorScatterElements", "AdamWeightDecay", "IsFinite"}
    assert expected <= {each.name for each in found}
    assert {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[precision] in {
        each.dtypes for each in found if each.name == "MatMul"
    }
    assert violations(found) == set()


@pytest.mark.slow
def test_every_operator_of_a_prediction(tmp_path):
    """With the N masks and the word-pixel attention."""
    config = load_config(overrides={**SMALLEST, "device_target": "Ascend", "existence": True})
    size, words = config.model.image_size, Tensor(np.ones((2, config.model.max_tokens), np.int32))
    model = PredictAll(build_model(config)).set_train(False)
    found = operators(model, [Tensor(np.zeros((2, 3, size, size), np.float32)), words, words], tmp_path)
    assert {"Conv2D", "MatMul", "Softmax"} <= {each.name for each in found}
    assert violations(found) == set()


class Wrong(nn.Cell):
    """Operators that are wrong or slow on a device, or in no row; among them those that an earlier version used."""

    def construct(self, x: Tensor):
        return (
            ops.tensor_scatter_elements(x, ops.zeros(x.shape, mindspore.int32), x, 0, "add"),
            ops.bitwise_right_shift(x.astype("int32"), 11),
            ops.sort(x)[0],
            ops.matmul(x.reshape(1, -1), x.reshape(-1, 1)),
            ops.addn((x,) * 65),
            ops.bessel_i0(x),
            ops.softmax(x.astype("float64")),
        )


def test_operators_that_are_wrong_or_slow_on_a_device_are_found(tmp_path):
    found = violations(operators(Wrong(), [Tensor(np.ones((80, 80), np.float32))], tmp_path))
    for pattern in (
        "TensorScatterElements of float32 int32 .*reduction none: on Ascend",
        "RightShift of int32 .*forbidden",
        "Sort of float32 .*forbidden: .*accuracy",
        "MatMul.* of float32 .*row by column",
        "AddN of float32 .*up to 64 tensors",
        "BesselI0 .*no row",
        "Softmax of float64 .*its row has",
    ):
        assert sum(bool(re.match(pattern, line)) for line in found) == 1, pattern
    assert len(found) == 7
