"""Every operator of model and losses is documented for Ascend, GPU and CPU by the installed MindSpore."""

from __future__ import annotations

import re
from pathlib import Path

import mindspore
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from mindspore.ops import auto_generate, operations
from mindspore.train import mind_ir_pb2

from coupalign.config import load_config
from coupalign.loss import PixelContrastiveLoss, SegmentationLoss
from coupalign.model import build_model
from coupalign.model.dropout import connect_dropout
from tests.conftest import SMALLEST

PLATFORMS = {"Ascend", "GPU", "CPU"}
# Nodes of a graph that are not operators: parameters, tuples, the order of side effects, loops.
NO_OPERATORS = {"Load", "UpdateState", "Depend", "MakeTuple", "TupleGetItem", "Switch", "Partial"}
# Internal names of public functions; these operators have no documentation of their own.
SPELLINGS = {"MatMulExt": "matmul", "SumExt": "sum", "Muls": "mul", "Divs": "div"}


class Training(nn.Cell):
    """Everything computed from a batch, including dropout, losses and the N masks."""

    def __init__(self):
        super().__init__()
        self.model = build_model(load_config(overrides=SMALLEST))
        connect_dropout(self.model, 2)
        self.segmentation, self.contrastive = SegmentationLoss(), PixelContrastiveLoss()

    def construct(self, image: Tensor, token_ids: Tensor, token_mask: Tensor, mask: Tensor):
        logits, pixels, masks, weights, _ = self.model.all_outputs(image, token_ids, token_mask)
        return self.segmentation(logits, mask), self.contrastive(pixels, mask), masks, weights


class Gradient(nn.Cell):
    """The gradients of the auxiliary loss that are written by hand; all others follow from the operators above."""

    def __init__(self, normalize: bool, on_cpu: bool):
        super().__init__()
        self.loss = PixelContrastiveLoss(normalize=normalize)
        for _, cell in self.loss.cells_and_names():
            cell.on_cpu = on_cpu

    def construct(self, y: Tensor, sides: Tensor, values: Tensor):
        loss, referent = self.loss, sides[:, 0]
        negatives = loss.negative_terms.bprop(y, referent, values, loss.negative_terms(y, referent))
        positives = loss.positive_terms.bprop(y, sides, sides, values, values)
        return negatives, positives, loss.scale.bprop(y, loss.scale(y), y)


def operators(cell: nn.Cell, inputs: list[Tensor], directory: Path) -> set[str]:
    """Names of the operators in the graph of a cell."""
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    file = directory / "graph.mindir"
    mindspore.export(cell, *inputs, file_name=str(file), file_format="MINDIR")
    model = mind_ir_pb2.ModelProto()
    model.ParseFromString(file.read_bytes())
    return {primitive.op_type for primitive in model.primitives} - NO_OPERATORS


def platforms(operator: str) -> set[str]:
    """Those of the documentation of an operator, or of the function that its documentation refers to."""
    text = (getattr(operations, operator, None) or getattr(auto_generate, operator)).__doc__ or ""
    refers = re.search(r"Refer to :func:`mindspore\.ops\.(\w+)`", text)
    function = SPELLINGS.get(operator) or (refers and refers[1])
    if function:
        text = getattr(ops, function).__doc__
    line = re.search(r"Supported Platforms:\s*\n\s*(.*)", text)
    return set(re.findall(r"``(\w+)``", line[1])) if line else set()


def test_platforms_are_read_from_the_documentation():
    assert platforms("Softmax") == platforms("Gather") == platforms("Concat") == PLATFORMS
    assert platforms("BesselI0") == {"GPU", "CPU"}


@pytest.mark.slow
def test_every_operator_runs_on_every_platform(tmp_path):
    config = load_config(overrides=SMALLEST)
    size, words = config.model.image_size, np.ones((2, config.model.max_tokens), np.int32)
    image, mask = np.zeros((2, 3, size, size), np.float32), np.zeros((2, size, size), np.float32)
    found = operators(Training().set_train(), [Tensor(x) for x in (image, words, words, mask)], tmp_path)
    assert {"Conv2D", "LayerNorm", "Softmax", "Gather", "BitwiseXor", "Log"} <= found
    assert {operator: platforms(operator) for operator in found} == dict.fromkeys(found, PLATFORMS)


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
def test_every_operator_of_the_written_gradient(normalize, on_cpu, tmp_path):
    inputs = [Tensor(np.zeros(shape, np.float32)) for shape in ((2, 4, 15), (2, 2, 15), (2, 15))]
    found = operators(Gradient(normalize, on_cpu), inputs, tmp_path)
    assert {"BatchMatMul", "Exp", "CumSum", "Gather"} <= found
    assert {operator: platforms(operator) for operator in found} == dict.fromkeys(found, PLATFORMS)
