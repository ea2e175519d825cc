"""Small encoders of Hugging Face with the names of each project, and checkpoints as arrays."""

from __future__ import annotations

import re
from pathlib import Path

import mindspore
import numpy as np
import torch

from tests.backbones import SwinModel, swin_weights


def official(model: SwinModel) -> dict[str, torch.Tensor]:
    """State dict of the official code for a classifier with this encoder."""
    state = {
        re.sub(r"\.beta$", ".bias", re.sub(r"\.gamma$", ".weight", name)): torch.from_numpy(value).float()
        for name, value in swin_weights(model).items()
    }
    for name in [name for name in state if name.endswith("qkv.weight")]:
        state[name.replace("qkv.weight", "relative_position_index")] = torch.zeros(49, 49, dtype=torch.int64)
        state[name.replace("attn.qkv.weight", "attn_mask")] = torch.zeros(64, 49, 49)
    return state | {"head.weight": torch.ones(10, 64), "head.bias": torch.ones(10)}


def timm(model: SwinModel) -> dict[str, torch.Tensor]:
    """State dict of timm 1.0: patch merging starts a stage, no buffers, another name of the head."""
    after = {f"layers.{i}.downsample": f"layers.{i + 1}.downsample" for i in range(3)}
    return {
        re.sub(r"layers\.\d\.downsample", lambda stage: after[stage[0]], name).replace("head.", "head.fc."): value
        for name, value in official(model).items()
        if not name.endswith(("_index", "_mask"))
    }


def hugging_face(model: SwinModel) -> dict[str, torch.Tensor]:
    """State dict of SwinModel."""
    return {name: value.float() if value.is_floating_point() else value for name, value in model.state_dict().items()}


def hugging_face_classifier(model: SwinModel) -> dict[str, torch.Tensor]:
    """State dict of SwinForImageClassification."""
    return {f"swin.{name}": value for name, value in hugging_face(model).items()} | {"classifier.bias": torch.ones(10)}


def converted(path: Path) -> dict[str, np.ndarray]:
    return {name: parameter.asnumpy() for name, parameter in mindspore.load_checkpoint(str(path)).items()}


def part(path: Path, module: str) -> dict[str, np.ndarray]:
    """Parameters of one module, with the names they have in the module alone."""
    return {
        name.removeprefix(f"{module}."): value for name, value in converted(path).items() if name.startswith(module)
    }
