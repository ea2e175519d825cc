"""Replaces Cells of a model by Cells that call kernels."""

from __future__ import annotations

from pathlib import Path

from mindspore import nn

from coupalign import devices
from coupalign.config import RunConfig
from coupalign.kernels import cells
from coupalign.kernels.build import library
from coupalign.model.bert import BertIntermediate
from coupalign.model.layers import ScaledDotProductAttention
from coupalign.model.swin import Mlp, SwinBlock, WindowAttention


def use_kernels(model: nn.Cell, run: RunConfig) -> nn.Cell:
    """Makes norms, GELUs, attention and residuals use kernels if ``cpu_kernels`` is set, in float32 on the CPU.

    Call it once after building the model, before it is compiled or set to recompute. Parameters and their names stay
    the same. Returns the model.
    """
    path = _library(run)
    if path:
        # Blocks come first, so that the Cells inside their replacements are replaced as well.
        for _, parent in list(model.cells_and_names()):
            for name, child in list(parent.name_cells().items()):
                if isinstance(child, SwinBlock):
                    parent.insert_child_to_cell(name, cells.KernelSwinBlock(path, child))
        for _, parent in list(model.cells_and_names()):
            for name, child in list(parent.name_cells().items()):
                if isinstance(child, nn.LayerNorm):
                    parent.insert_child_to_cell(name, cells.KernelNorm(path, child))
                elif isinstance(child, ScaledDotProductAttention):
                    parent.insert_child_to_cell(name, cells.KernelScaledDotProductAttention(path, child))
                elif isinstance(child, WindowAttention):
                    parent.insert_child_to_cell(name, cells.KernelWindowAttention(path, child))
            if isinstance(parent, (Mlp, BertIntermediate)):
                linear = parent.fc1 if isinstance(parent, Mlp) else parent.dense
                parent.insert_child_to_cell("gelu", cells.KernelGelu(path, linear.bias))
                linear.has_bias = False
    return model


def use_kernels_in_update(update: nn.Cell, run: RunConfig) -> None:
    """Makes the gradient clipping ``update.clip`` of an ``Update`` use a kernel, under the same conditions."""
    path = _library(run)
    if path:
        update.insert_child_to_cell("clip", cells.KernelClip(path, update.clip.limit))


def _library(run: RunConfig) -> Path | None:
    return library() if run.cpu_kernels and devices.on_cpu() and run.precision == "fp32" else None
