"""Reads the tensors of a weight file: PyTorch, safetensors or CoupAlign."""

from __future__ import annotations

import argparse
import os
import pickle
import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coupalign.checkpoints.loading import CONVERTED, read_checkpoint
from coupalign.checkpoints.safetensors_file import read_safetensors
from coupalign.errors import UserError
from coupalign.files import find_file

_TORCH_STARTS = b"PK\x03\x04", pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)  # PyTorch from 1.6 on, and before
_NOT_WEIGHTS = {
    b"<": "is a web page: download the file itself",
    b"version https://git-lfs": "is a Git LFS pointer: fetch the file itself (git lfs pull, or download it)",
    b"\x1f\x8b": "is compressed with gzip: unpack it",
}


@dataclass(frozen=True)
class Source:
    """A weight file and its tensors by name, in their saved dtype (bfloat16 as float32)."""

    path: Path
    tensors: dict[str, np.ndarray]


def read_weights(path: str | os.PathLike) -> Source:
    """Reads a PyTorch file (.pth, .pt, .bin) or a safetensors file, as its content says. Raises: UserError."""
    path = find_file(path)
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the path") from error
    if start.startswith(_TORCH_STARTS):
        return Source(path, _read_torch(path))
    if start[8:9] == b"{":
        return Source(path, read_safetensors(path))
    for beginning, message in _NOT_WEIGHTS.items():
        if start.lstrip().startswith(beginning):
            raise UserError(f"{path} {message}")
    raise UserError(f"{path} is neither a PyTorch nor a safetensors file, or is damaged: download it again")


def read_own_checkpoint(path: str | os.PathLike) -> Source:
    """Reads a whole checkpoint of CoupAlign. Raises: UserError."""
    parameters = read_checkpoint(path)
    if CONVERTED in parameters:
        raise UserError(f"{path} holds encoders only: convert the files it was made from with this configuration")
    return Source(find_file(path), {name: parameter.asnumpy() for name, parameter in parameters.items()})


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    """The tensors under "model" or "state_dict" if there is one, else all. No code in the file is run."""
    try:
        import torch
    except ImportError as error:
        raise UserError(f"{path} is a PyTorch file: pip install torch, or choose a safetensors file") from error
    # Configurations that training scripts save beside the weights.
    known: list[Any] = [argparse.Namespace, (OrderedDict, "yacs.config.CfgNode")]
    try:
        with torch.serialization.safe_globals(known):
            content = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(content, dict):
            inside = [content[key] for key in ("model", "state_dict") if isinstance(content.get(key), dict)]
            content = (inside or [content])[0]
        named = isinstance(content, dict) and all(map(torch.is_tensor, content.values()))
        tensors = {
            str(name): (value.float() if value.dtype == torch.bfloat16 else value).detach().numpy()
            for name, value in (content.items() if named else ())
        }
    except Exception as error:  # a damaged file can raise any exception
        refused = re.search(r"GLOBAL \S+|(?m:^.*(?:reduce for|create new object).*)", str(error))
        if refused and isinstance(error, pickle.UnpicklingError):
            command = f"import torch; torch.save(torch.load('{path}', weights_only=False)['model'], 'model.pth')"
            raise UserError(
                f"{path} holds more than tensors ({refused[0].strip()}), and loading it could run code: download another "
                f'file, or if you trust it, save its "model" entry alone: python -c "{command}"'
            ) from error
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} is not a PyTorch file, or is damaged ({reason}): download it again") from error
    if not tensors:
        raise UserError(f"{path} holds no tensors by name, or more than tensors: save the state_dict() of the model")
    return tensors
