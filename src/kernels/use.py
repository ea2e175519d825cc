"""Which Cells of a model compute by kernels."""
from __future__ import annotations

import mindspore
from mindspore import nn

from src.config import Config
from src.kernels.build import library
from src.kernels.cells import KernelGelu, KernelNorm
from src.model import CoupAlign
from src.model.bert import BertIntermediate
from src.model.swin import Mlp


def use_kernels(model: CoupAlign, config: Config) -> CoupAlign:
    """Lets layer norms and GELUs of a model in float32 compute by kernels, on the CPU, unless ``config`` forbids it.

    To be called once the model is built and before it is compiled; parameters stay the same ones, names included. What
    is exported does not go through here, and consists of MindSpore's operators.

    Returns: the model.
    """
    on_cpu = mindspore.get_context("device_target") == "CPU"
    path = library() if config.cpu_kernels and on_cpu and config.precision == "fp32" else None
    if path:
        for _, parent in list(model.cells_and_names()):
            for name, child in list(parent.name_cells().items()):
                if isinstance(child, nn.LayerNorm):
                    parent.insert_child_to_cell(name, KernelNorm(path, child))
            if isinstance(parent, (Mlp, BertIntermediate)):
                linear = parent.fc1 if isinstance(parent, Mlp) else parent.dense
                parent.insert_child_to_cell("gelu", KernelGelu(path, linear.bias))
                linear.has_bias = False
    return model
