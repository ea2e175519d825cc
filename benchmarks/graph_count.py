"""Counts FLOPs and activations of the compiled training graph, operator by operator, from MindSpore's dump."""

from __future__ import annotations

import math
import os
import re
import tempfile
from pathlib import Path

from benchmarks.costs import Cost
from coupalign.config import Config

# Names as in the dump. Only the first output of an operator counts.
PRODUCTS = {"MatMul", "BatchMatMul", "MatMulExt", "BatchMatMulExt", "Dense"}
CONVOLUTIONS = {"Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter"}
KEPT = PRODUCTS | {"Conv2D", "LayerNorm", "BatchNorm", "Softmax", "ReLU", "Tanh", "Erf"}
# The module of the operators of each file, unless another of these files called it. Where the dump truncates the calls,
# the Cell's name decides; the rest belongs to mask_proj.
SOURCES = {
    "swin": "image_encoder",
    "bert": "text_encoder",
    "wpa": "wpa",
    "cross_attention": "cross_attention",
    "mask_generator": "mask_generator",
    "seg_head": "seg_head",
    "sma": "sma",
    "resize": "upsample",
}
CALLER = re.compile(rf"/src/coupalign/model/({'|'.join(SOURCES)})\.py:")
CELL = re.compile(r"/model-CoupAlign/(\w+)-")
NODE = re.compile(r"\S+ = (?:PrimFunc_)?(\w+)\((?s:.*?)\n      : \((.*)\) -> \((.*)\)\n")
SHAPE = re.compile(r"(?:\]|Shape\()[,>]* ?\(([\d, ]+)\)")


def count(config: Config, batch: int) -> dict[str, Cost]:
    """Costs by module of the training graph without the auxiliary loss, which is compiled but not run."""
    with tempfile.TemporaryDirectory() as directory:
        os.environ.update(MS_DEV_SAVE_GRAPHS="1", MS_DEV_SAVE_GRAPHS_PATH=directory, MS_DEV_DUMP_IR_PASSES="validate")
        model = _compile(config, batch)
        modules = count_dump(next(Path(directory).rglob("*_validate_*.ir")).read_text(encoding="utf-8"))
    for parameter in model.trainable_params():
        modules[parameter.name.split(".")[0]].parameters += parameter.size
    return modules


def count_dump(text: str) -> dict[str, Cost]:
    """FLOPs and activations by module in a dump of the graph."""
    modules = {name: Cost() for name in (*SOURCES.values(), "mask_proj")}
    for node in text.split("\n  %"):
        match = NODE.match(node)
        if match and match[1] in KEPT | CONVOLUTIONS:
            caller = CALLER.search(node)
            cell = CELL.search(node)
            module = SOURCES[caller[1]] if caller else cell[1] if cell and cell[1] in modules else "mask_proj"
            _add(modules[module], match[1], _shapes(match[2]), _shapes(match[3])[0], "forward_unique_id" in node)
    return modules


def _compile(config: Config, batch: int):
    import numpy as np
    from mindspore import Tensor, nn, ops

    from coupalign.devices import set_up
    from coupalign.loss import PixelContrastiveLoss
    from coupalign.model import build_model
    from coupalign.model.dropout import connect_dropout
    from coupalign.training.step import Objective

    class Gradients(nn.Cell):
        def __init__(self, objective: nn.Cell):
            super().__init__(auto_prefix=False)
            self.objective = objective
            self.gradients = ops.value_and_grad(objective, None, objective.trainable_params(), has_aux=True)

        def construct(self, image, token_ids, token_mask, mask):
            return self.gradients(image, token_ids, token_mask, mask)

    set_up(config.run)
    model = build_model(config)
    objective = Objective(model, PixelContrastiveLoss(), aux_loss_weight=0.0)
    connect_dropout(objective, batch)
    size, words = config.model.image_size, Tensor(np.ones((batch, config.model.max_tokens), np.int32))
    image, mask = np.zeros((batch, 3, size, size), np.float32), np.zeros((batch, size, size), np.float32)
    Gradients(objective).set_train().compile(Tensor(image), words, words, Tensor(mask))
    return model


def _shapes(text: str) -> list[tuple[int, ...]]:
    return [tuple(int(size) for size in re.findall(r"\d+", shape)) for shape in SHAPE.findall(text)]


def _add(cost: Cost, operator: str, inputs: list[tuple[int, ...]], output: tuple[int, ...], backward: bool) -> None:
    flops = 0
    if operator in PRODUCTS:
        flops = 2 * math.prod(output) * (inputs[0][-1] * inputs[0][-2] // output[-2])
    elif operator in CONVOLUTIONS:
        # A kernel (out, in, height, width) costs in * height * width multiply-adds per output element.
        kernel = output if operator == "Conv2DBackpropFilter" else inputs[1]
        flops = 2 * math.prod(output if operator == "Conv2D" else inputs[0]) * math.prod(kernel[1:])
    if backward:
        cost.backward += flops
    else:
        cost.forward += flops
        cost.activations += math.prod(output)
