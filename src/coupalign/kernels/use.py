"""Which Cells of a model compute by kernels."""

from __future__ import annotations

from pathlib import Path

import mindspore
from mindspore import nn

from coupalign.config import Config
from coupalign.kernels.build import library
from coupalign.kernels.cells import (
    KernelClip,
    KernelGelu,
    KernelMultiHeadAttention,
    KernelNorm,
    KernelSwinBlock,
    KernelWindowAttention,
)
from coupalign.model.bert import BertIntermediate
from coupalign.model.layers import MultiHeadAttention
from coupalign.model.swin import Mlp, SwinBlock, WindowAttention


def use_kernels(model: nn.Cell, config: Config) -> nn.Cell:
    """Lets a model compute norms, GELUs, attention and residuals by kernels, in float32 on the CPU, if so configured.

    To be called once, after the model is built, and before it is compiled or anything in it is recomputed. Parameters
    stay the same ones, names included. What is exported does not go through here: it consists of MindSpore's operators.

    Returns: the model.
    """
    path = _library(config)
    if path:
        # The blocks first, so that what they are made of is found in what stands for them.
        for _, parent in list(model.cells_and_names()):
            for name, child in list(parent.name_cells().items()):
                if isinstance(child, SwinBlock):
                    parent.insert_child_to_cell(name, KernelSwinBlock(path, child))
        for _, parent in list(model.cells_and_names()):
            for name, child in list(parent.name_cells().items()):
                if isinstance(child, nn.LayerNorm):
                    parent.insert_child_to_cell(name, KernelNorm(path, child))
                elif isinstance(child, MultiHeadAttention):
                    parent.insert_child_to_cell(name, KernelMultiHeadAttention(path, child))
                elif isinstance(child, WindowAttention):
                    parent.insert_child_to_cell(name, KernelWindowAttention(path, child))
            if isinstance(parent, (Mlp, BertIntermediate)):
                linear = parent.fc1 if isinstance(parent, Mlp) else parent.dense
                parent.insert_child_to_cell("gelu", KernelGelu(path, linear.bias))
                linear.has_bias = False
    return model


def use_kernels_in_update(update: nn.Cell, config: Config) -> None:
    """Likewise the clipping of gradients, ``update.clip``, of an ``Update``."""
    path = _library(config)
    if path:
        update.insert_child_to_cell("clip", KernelClip(path, update.clip.limit))


def _library(config: Config) -> Path | None:
    on_cpu = mindspore.get_context("device_target") == "CPU"
    return library() if config.run.cpu_kernels and on_cpu and config.run.precision == "fp32" else None
