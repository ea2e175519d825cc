"""Values and gradients of modules and losses against float64 references, and dropout's masks.

references.npz holds random inputs and weights that float32 represents exactly, and what NumPy and PyTorch compute from
them in float64: ``python -m tests.device_references`` writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops

from coupalign.device_check.rows import Outcome
from coupalign.loss import PixelContrastiveLoss, SegmentationLoss
from coupalign.model.bert import BertLayer
from coupalign.model.cross_attention import CrossAttention
from coupalign.model.dropout import Dropout, connect_dropout, draw
from coupalign.model.gate import Gate
from coupalign.model.mask_generator import MaskGenerator
from coupalign.model.seg_head import DoubleConv, SegHead
from coupalign.model.sma import SentenceMaskAlignment
from coupalign.model.swin import PatchEmbed, PatchMerging, SwinStage
from coupalign.model.wpa import WordPixelAlignment

REFERENCES = Path(__file__).with_name("references.npz")
# Of the largest value of a tensor. Float32 stays below 2e-5; TF32 and HF32, with 11 bits, reach 1e-3.
TOLERANCE = 1e-4
DROPOUT_RATE, DROPOUT_SHAPE, DROPOUT_STEPS = 0.1, (4, 8, 125), (1, 2)


class _Head(nn.Cell):
    """A segmentation head, with frozen statistics, whose stages are separate inputs."""

    def __init__(self):
        super().__init__(auto_prefix=False)
        self.head = SegHead(image_dims=[3, 4, 6, 8], dim=5, size=16, statistics="frozen")

    def construct(self, fused: Tensor, v_1: Tensor, v_2: Tensor, v_3: Tensor, v_4: Tensor):
        return self.head(fused, [v_1, v_2, v_3, v_4])


MODULES: dict[str, Callable[[], nn.Cell]] = {
    "gate": lambda: Gate(20),
    "wpa": lambda: WordPixelAlignment(image_dim=12, text_dim=20, dim=16),
    "cross_attention": lambda: CrossAttention(image_dim=24, dim=16, num_pixels=9, heads=2),
    "mask_generator": lambda: MaskGenerator(image_dim=24, dim=16, num_queries=5, layers=2, heads=2, ffn_dim=32),
    "sma": lambda: SentenceMaskAlignment(query_dim=12, pixel_dim=10, dim=16, temperature=0.1),
    "seg_head": _Head,
    "batch_norm": lambda: DoubleConv(in_dim=6, out_dim=8, statistics="local"),
    "patch_embed": lambda: PatchEmbed(8),
    # 10 x 10 patches are padded to 12 x 12; the second block has shifted windows.
    "swin_stage": lambda: SwinStage(dim=8, heads=2, size=10, window=4, drop_path=[0.0, 0.0], downsample=False),
    "patch_merging": lambda: PatchMerging(dim=8, size=6),
    "bert_layer": lambda: BertLayer(dim=24, heads=3, dropout=0.0),
    "segmentation_loss": SegmentationLoss,
    "contrastive_loss": PixelContrastiveLoss,
}


class _Weighted(nn.Cell):
    """A scalar whose gradient by each output of a Cell is given, and the outputs, a flat tuple."""

    def __init__(self, cell: nn.Cell, gradients: Sequence[Tensor]):
        super().__init__(auto_prefix=False)
        self.cell, self.gradients = cell, tuple(gradients)

    def construct(self, *inputs: Tensor):
        outputs = self.cell(*inputs)
        flat: tuple = ()
        for output in outputs if isinstance(outputs, tuple) else (outputs,):
            flat = flat + (output if isinstance(output, tuple) else (output,))
        total = ops.zeros((), mindspore.float32)
        for output, gradient in zip(flat, self.gradients):
            total = total + (output * gradient).sum()
        return total, flat


def compare_module(name: str) -> Outcome:
    """Compares outputs, and gradients of inputs and weights, of one of MODULES."""
    with np.load(REFERENCES) as file:
        arrays = {key.partition("/")[2]: file[key] for key in file if key.startswith(f"{name}/")}
    cell = MODULES[name]().set_train()
    for parameter in cell.get_parameters():
        parameter.set_data(Tensor(arrays[f"weight.{parameter.name}"]))
    weights = cell.trainable_params()
    inputs = [Tensor(array) for array in numbered(arrays, "input")]
    positions = tuple(i for i, each in enumerate(inputs) if f"d_input.{i}" in arrays)
    run = ops.value_and_grad(
        _Weighted(cell, [Tensor(each) for each in numbered(arrays, "d_output")]), positions, weights or None, True
    )
    (_, outputs), gradients = run(*inputs)
    by_inputs, by_weights = gradients if weights else (gradients, ())
    by_inputs = by_inputs if isinstance(by_inputs, tuple) else (by_inputs,)  # MindSpore unpacks a tuple of one
    found = {f"output.{i}": each for i, each in enumerate(outputs)}
    found |= {f"d_input.{i}": each for i, each in zip(positions, by_inputs)}
    found |= {f"d_weight.{each.name}": gradient for each, gradient in zip(weights, by_weights)}
    found |= {f"new.{each.name}": each for each in cell.get_parameters()}  # moving statistics
    results = [key for key in arrays if not key.startswith(("input.", "weight.", "d_output."))]
    errors = {key: relative_error(found[key].asnumpy(), arrays[key], _scale(arrays, key)) for key in results}
    worst = max(errors, key=errors.__getitem__)
    return Outcome(errors[worst], TOLERANCE, f"largest in {worst}")


def numbered(arrays: dict[str, np.ndarray], kind: str) -> list[np.ndarray]:
    """The arrays ``<kind>.0``, ``<kind>.1``, …"""
    return [arrays[f"{kind}.{i}"] for i in range(sum(key.startswith(f"{kind}.") for key in arrays))]


def relative_error(found: np.ndarray, expected: np.ndarray, scale: float) -> float:
    """Largest difference over `scale`; inf for another shape or values that are not finite."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - expected).max() / scale)


def _scale(arrays: dict[str, np.ndarray], key: str) -> float:
    """Largest value of a tensor. A gradient may be 0, as that of key biases: a hundredth of the largest one counts."""
    kind = key.partition(".")[0]
    largest = max(np.abs(each).max() for name, each in arrays.items() if name.startswith(f"{kind}."))
    return float(max(np.abs(arrays[key]).max(), 1e-2 * largest))


def compare_dropout() -> Outcome:
    """Counts the elements of dropout's masks that differ, over several steps."""
    with np.load(REFERENCES) as file:
        kept = np.unpackbits(file["dropout/kept"], count=len(DROPOUT_STEPS) * int(np.prod(DROPOUT_SHAPE)))
    layers = nn.SequentialCell(Dropout(0.5), Dropout(DROPOUT_RATE)).set_train()
    draws = connect_dropout(layers, DROPOUT_SHAPE[0])
    layer, found = layers[1], []
    for step in DROPOUT_STEPS:
        draws.set_data(draw(7, step, draws))
        found.append(layer(ops.ones(DROPOUT_SHAPE, mindspore.float32)).asnumpy())
    expected = kept * np.float32(2**16 / (2**16 - round(DROPOUT_RATE * 2**16)))
    return Outcome(np.count_nonzero(np.stack(found).reshape(-1) != expected), 0, f"elements of {kept.size:,}")
