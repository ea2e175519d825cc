"""MindSpore's checkpoint files, read one entry at a time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from mindspore import Parameter, Tensor
from mindspore.train.checkpoint_pb2 import Checkpoint

_ENTRY = b"\x0a"  # of a file's protobuf message: field 1 with a length
_CHECKSUM = b"crc_num"  # followed by ten bytes, at the end of some files


def read_ckpt(path: Path) -> dict[str, Any]:
    """The entries of a .ckpt file by name: parameters, and what ``append_dict`` added as text.

    ``mindspore.load_checkpoint`` holds the file, its parsed message and the parameters at the same time.

    Raises: ValueError, TypeError, RuntimeError or protobuf's DecodeError if it is damaged or another file.
    """
    found: dict[str, Any] = {}
    with open(path, "rb") as file:
        # A large parameter is divided into consecutive entries of one name.
        for name, parts in groupby(_entries(file, path.stat().st_size), lambda each: each.tag):
            tensors = [each.tensor for each in parts]
            kind, shape = tensors[-1].tensor_type, tuple(tensors[-1].dims)
            content = b"".join(each.tensor_content for each in tensors)
            if kind == "str":
                found[name] = str(np.frombuffer(content, f"U{len(content) // 4}")[0])
            else:
                values = np.frombuffer(content, kind.lower()).copy()  # such as Float32; writable
                found[name] = Parameter(Tensor(values.reshape(() if shape == (0,) else shape)), name=name)
    if not found:
        raise ValueError("no parameters")
    return found


def _entries(file: BinaryIO, size: int) -> Iterator[Checkpoint.Value]:
    while start := file.read(1):
        if start != _ENTRY:
            if start + file.read(len(_CHECKSUM) - 1) != _CHECKSUM:
                raise ValueError("not a checkpoint")
            return
        length = _read_varint(file)
        if length > size - file.tell():
            raise ValueError("ends early")
        yield Checkpoint.Value.FromString(file.read(length))


def _read_varint(file: BinaryIO) -> int:
    """An integer of protobuf: seven bits in each byte, least significant first; the last byte is below 128."""
    value = shift = 0
    while byte := file.read(1):
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
        shift += 7
    raise ValueError("ends early")
