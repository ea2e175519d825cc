"""Compares converted encoders of Swin-B's real sizes, with random weights, with the source models' outputs.

For each image size and window, PyTorch writes the three naming schemes: Hugging Face's SwinModel, the official names,
and timm's model, which is compared with its own output. Each is converted and run in graph mode. The script needs timm
and a torchvision that fits PyTorch; the tests therefore do without timm.

timm is skipped where a feature map is padded to whole windows, because it shifts before it pads. Hugging Face, the
official detection code and this project shift after padding.

    python -m benchmarks.convert_swin_b
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")

import mindspore
import numpy as np
import timm
import torch
from mindspore import Tensor, nn

from coupalign.checkpoints.convert import convert
from coupalign.config import load_config
from coupalign.model.swin import SwinTransformer
from tests.backbones import random_swin, set_weights
from tests.weight_files import hugging_face, official, part

SWIN_B = {"embed_dim": 128, "depths": [2, 2, 18, 2], "heads": [4, 8, 16, 32]}
SIZES = ((224, 7), (448, 7), (384, 12), (224, 12), (448, 12))


def main() -> None:
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    print(f"{'image':>5} {'window':>6} {'names':>14} {'largest error':>13}")
    for size, window in SIZES:
        image = np.random.default_rng(1).standard_normal((1, 3, size, size)).astype(np.float32)
        config = load_config(overrides={"image_size": size, "swin_window_size": window})
        ours = SwinTransformer(image_size=size, window=window, drop_path_rate=0.0, **SWIN_B).set_train(False)
        theirs = random_swin(image_size=size, window=window, **SWIN_B)
        with torch.no_grad():
            expected = theirs(torch.from_numpy(image).double()).last_hidden_state
        for name, state in {"Hugging Face": hugging_face(theirs), "official": {"model": official(theirs)}}.items():
            _row(size, window, name, error(config, ours, state, image, expected))
        del theirs
        if any(side > window and side % window for side in (size // 4 // 2**i for i in range(4))):
            continue
        model = timm.create_model(
            "swin_base_patch4_window7_224", pretrained=False, num_classes=21841, img_size=size, window_size=window
        ).eval()
        with torch.no_grad():
            for parameter in model.parameters():  # a parameter of 0 or 1 could hide a missing term
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
            state = {name: value.clone() for name, value in model.state_dict().items()}
            expected = model.double().forward_features(torch.from_numpy(image).double()).flatten(1, 2)
        _row(size, window, "timm", error(config, ours, state, image, expected))


def error(config, ours: nn.Cell, state: dict, image: np.ndarray, expected: torch.Tensor) -> float:
    """Largest difference of the converted encoder's output, relative to the largest expected value."""
    with tempfile.TemporaryDirectory() as directory:
        torch.save(state, Path(directory, "swin.pth"))
        convert(config, Path(directory, "start.ckpt"), swin=Path(directory, "swin.pth"))
        set_weights(ours, part(Path(directory, "start.ckpt"), "image_encoder"))
    difference = ours(Tensor(image)).asnumpy() - expected.numpy()
    return float(np.abs(difference).max() / np.abs(expected.numpy()).max())


def _row(size: int, window: int, name: str, largest: float) -> None:
    print(f"{size:5} {window:6} {name:>14} {largest:13.1e}", flush=True)


if __name__ == "__main__":
    main()
