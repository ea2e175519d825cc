"""Shapes of what flows through a model, seen by running it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mindspore
import numpy as np
from mindspore import Tensor, nn

from coupalign.config import Config
from coupalign.model import build_model


@dataclass(frozen=True)
class Shapes:
    """What was seen of a model.

    Attributes:
        tensors: by the paper's name (``V_1``, ``L_g``, ``Y_1``, …), the shape for a batch of one.
        parameters: by name of the model's parts, as in a checkpoint, number of trainable parameters; a part that the
            configuration leaves out is not there.
    """

    tensors: Mapping[str, tuple[int, ...]]
    parameters: Mapping[str, int]


def model_shapes(config: Config) -> Shapes:
    """Builds the model of `config` with random weights, and runs one image and one expression through it, Cell by Cell.

    MindSpore is left in PyNative mode, in which Cells can be watched.
    """
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    model = build_model(config).set_train(False)
    seen: dict[str, tuple[int, ...]] = {}
    _watch(model, seen)
    words = np.zeros((1, config.model.max_tokens), np.int32)
    words[:, :3] = 1
    inputs = {
        "image": np.zeros((1, 3, config.model.image_size, config.model.image_size), np.float32),
        "token_ids": words,
        "token_mask": words,
    }
    seen.update({name: array.shape for name, array in inputs.items()})
    seen["logits"] = model(*(Tensor(array) for array in inputs.values())).shape
    parameters: dict[str, int] = {}
    for parameter in model.trainable_params():
        part = parameter.name.split(".")[0]
        parameters[part] = parameters.get(part, 0) + parameter.size
    return Shapes({name: tuple(shape) for name, shape in seen.items()}, parameters)


def _watch(model: nn.Cell, seen: dict[str, tuple[int, ...]]) -> None:
    """Writes into `seen`, as the model runs, the shapes of what its Cells take and give, by the paper's names."""

    def watch(cell: nn.Cell, takes: tuple[str, ...] = (), gives: tuple[str, ...] = ()) -> None:
        def note(_, inputs, outputs):
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            for names, tensors in ((takes, inputs), (gives, outputs)):
                seen.update({name: tensor.shape for name, tensor in zip(names, tensors) if name and tensor is not None})

        cell.register_forward_hook(note)

    for i, alignment in enumerate(model.wpa, 1):
        watch(alignment, (f"V_{i}", f"L_{i}"), ("", "", f"over_words_{i}", f"over_pixels_{i}"))
    watch(model.cross_attention, ("V_o", "L_o"), ("S_o",))
    for i, rho in enumerate(model.seg_head.rho, 1):
        watch(rho, (f"Y_{i + 1}",))
    watch(model.seg_head, gives=("Y_1",))
    if model.has_sma:
        seen["Q"] = (1, *model.mask_generator.queries.shape)
        watch(model.mask_generator, gives=("Q_o",))
        watch(model.sma, ("", "", "L_g"), ("M", "Q_w"))
    else:
        watch(model.mask_proj, gives=("M",))
