"""A file of weights as tensors by name, whoever wrote it."""

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
    b"<": "is a web page: download the file itself, not the page about it",
    b"version https://git-lfs": "is Git LFS's note about a file: fetch the file itself (git lfs pull, or download it)",
    b"\x1f\x8b": "is compressed with gzip: unpack it",
}


@dataclass(frozen=True)
class Source:
    """What a file holds: tensors by name, in the types they were saved in, and the names of what is beside them."""

    path: Path
    tensors: dict[str, np.ndarray]
    beside: list[str]


def read_weights(path: str | os.PathLike) -> Source:
    """Reads a file of PyTorch's (.pth, .pt, .bin) or of safetensors; which of them shows its content, not its name.

    Raises: UserError where it is missing, broken, something else, or asks to run anything.
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
    raise UserError(
        f"{path} is neither a checkpoint of PyTorch's nor of safetensors, or its beginning is damaged: fetch it again"
    )


def read_own_checkpoint(path: str | os.PathLike) -> Source:
    """Reads a whole checkpoint of CoupAlign. Raises: UserError where it is none."""
    parameters = read_checkpoint(path)
    if CONVERTED in parameters:
        raise UserError(
            f"{path} holds encoders only: convert the files that it was made of again, with this configuration"
        )
    return Source(find_file(path), {name: parameter.asnumpy() for name, parameter in parameters.items()}, [])


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        entries = deserialize(path.read_bytes())
    except SafetensorError as error:
        raise UserError(f"{path} is no file of safetensors, or a damaged one ({error}): fetch it again") from error
    tensors = {}
    for name, entry in sorted(entries):
        if entry["dtype"] not in _TYPES:
            raise UserError(f"{path} holds {name} as {entry['dtype']}, which is not read: give the file in float32")
        values = np.frombuffer(entry["data"], _TYPES[entry["dtype"]])
        tensors[name] = (widen_bfloat16(values) if entry["dtype"] == "BF16" else values).reshape(entry["shape"])
    if not tensors:
        raise UserError(f"{path} holds no tensors: give another file")
    return tensors
