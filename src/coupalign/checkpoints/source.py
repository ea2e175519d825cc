"""Reads the tensors of a weight file: PyTorch, safetensors or CoupAlign."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, deserialize

from coupalign.checkpoints.loading import CONVERTED, read_checkpoint
from coupalign.checkpoints.torch_file import LEGACY_START, ZIP_START, read_torch_file, widen_bfloat16
from coupalign.errors import UserError
from coupalign.files import find_file

_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
_NOT_WEIGHTS = {
    b"<": "is a web page: download the file itself",
    b"version https://git-lfs": "is a Git LFS pointer: fetch the file itself (git lfs pull, or download it)",
    b"\x1f\x8b": "is compressed with gzip: unpack it",
}


@dataclass(frozen=True)
class Source:
    """The content of a weight file.

    Attributes:
        path: The file.
        tensors: Tensors by name, in their saved dtype (bfloat16 as float32).
        beside: Names of other content, which was not read.
    """

    path: Path
    tensors: dict[str, np.ndarray]
    beside: list[str]


def read_weights(path: str | os.PathLike) -> Source:
    """Reads a PyTorch file (.pth, .pt, .bin) or a safetensors file. The content decides, not the name.

    Raises:
        UserError: If the file is missing, damaged or of another kind, or contains code.
    """
    path = find_file(path)
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the path") from error
    if start.startswith((ZIP_START, LEGACY_START)):
        return Source(path, *read_torch_file(path))
    if start[8:9] == b"{":
        return Source(path, _read_safetensors(path), [])
    for beginning, message in _NOT_WEIGHTS.items():
        if start.lstrip().startswith(beginning):
            raise UserError(f"{path} {message}")
    raise UserError(f"{path} is neither a PyTorch nor a safetensors file, or is damaged: download it again")


def read_own_checkpoint(path: str | os.PathLike) -> Source:
    """Reads a whole checkpoint of CoupAlign. Raises: UserError."""
    parameters = read_checkpoint(path)
    if CONVERTED in parameters:
        raise UserError(f"{path} holds encoders only: convert the files it was made from with this configuration")
    return Source(find_file(path), {name: parameter.asnumpy() for name, parameter in parameters.items()}, [])


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        entries = deserialize(path.read_bytes())
    except SafetensorError as error:
        raise UserError(f"{path} is a damaged safetensors file ({error}): download it again") from error
    tensors = {}
    for name, entry in sorted(entries):
        if entry["dtype"] not in _TYPES:
            raise UserError(f"{path} holds {name} as {entry['dtype']}, which is not supported: save it as float32")
        values = np.frombuffer(entry["data"], _TYPES[entry["dtype"]])
        tensors[name] = (widen_bfloat16(values) if entry["dtype"] == "BF16" else values).reshape(entry["shape"])
    if not tensors:
        raise UserError(f"{path} holds no tensors: choose another file")
    return tensors
