"""A checkpoint into a model, checked name by name."""
from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import mindspore
from mindspore import nn

from src.errors import UserError
from src.files import find_file

# First parts of the names of all parameters a model can have. Anything else in a checkpoint, such as the state of the
# optimiser, is none of the model's; under these, a name that the model lacks means another configuration.
ROOMS = frozenset({"image_encoder", "text_encoder", "wpa", "cross_attention", "mask_generator", "seg_head", "sma",
                   "mask_proj"})
_OTHER_CONFIGURATION = "it was made with another configuration: pass its config.yaml with --config"


def read_checkpoint(path: str | os.PathLike) -> dict[str, mindspore.Parameter]:
    """All parameters of a checkpoint file by name. Raises UserError where there is no file or no checkpoint in it."""
    path = find_file(path)
    if not path.is_file():
        raise UserError(f"no checkpoint {path}: check the path (train.py writes them to output_dir)")
    if not os.access(path, os.R_OK):
        raise UserError(f"checkpoint {path} cannot be read: check its permissions")
    if path.suffix != ".ckpt":
        raise UserError(f"{path} is not a MindSpore checkpoint (.ckpt): convert_weights.py makes one of PyTorch's")
    try:
        return mindspore.load_checkpoint(str(path))
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{path} is not a MindSpore checkpoint, or a broken one: copy or make it again") from error


def load_checkpoint(path: str | os.PathLike, model: nn.Cell) -> None:
    """Sets every parameter of `model` from the checkpoint, in the model's precision.

    Raises:
        UserError: where the file is missing or broken, or parameters are missing, unexpected or of other shapes. The
            model is then as it was. What a checkpoint holds outside the model's rooms is ignored.
    """
    saved = read_checkpoint(path)
    wanted = model.parameters_dict()
    _refuse(path, "lacks", [name for name in wanted if name not in saved])
    _refuse(path, "has in excess", [name for name in saved if name not in wanted and name.split(".")[0] in ROOMS])
    _refuse(path, "has in another shape", [
        f"{name} {tuple(saved[name].shape)} instead of {tuple(parameter.shape)}"
        for name, parameter in wanted.items() if tuple(saved[name].shape) != tuple(parameter.shape)
    ])
    for name, parameter in wanted.items():
        parameter.set_data(saved[name].value().astype(parameter.dtype))


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(find_file(path), "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _refuse(path: str | os.PathLike, what: str, names: Sequence[str]) -> None:
    if names:
        others = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise UserError(f"checkpoint {path} {what} {', '.join(names[:3])}{others}: {_OTHER_CONFIGURATION}")
