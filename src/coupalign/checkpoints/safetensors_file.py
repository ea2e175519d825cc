"""Files in the safetensors format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from coupalign.errors import UserError

_TYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"},
    **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"},
}


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file by name, in their saved dtype (bfloat16 as float32). Raises: UserError."""
    try:
        entries = deserialize(path.read_bytes())
    except SafetensorError as error:
        raise UserError(f"{path} is a damaged safetensors file ({error}): download it again") from error
    tensors = {}
    for name, entry in sorted(entries):
        if entry["dtype"] not in _TYPES:
            raise UserError(f"{path} holds {name} as {entry['dtype']}, which is not supported: save it as float32")
        values = np.frombuffer(entry["data"], _TYPES[entry["dtype"]])
        if entry["dtype"] == "BF16":  # its bits are the upper half of a float32
            values = (values.astype(np.uint32) << 16).view(np.float32)
        tensors[name] = values.reshape(entry["shape"])
    if not tensors:
        raise UserError(f"{path} holds no tensors: choose another file")
    return tensors


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes tensors by name. Raises: OSError, which safetensors' own writer does not."""
    path.write_bytes(save({name: np.ascontiguousarray(each) for name, each in tensors.items()}))
