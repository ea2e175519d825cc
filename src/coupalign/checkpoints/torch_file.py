"""Reads PyTorch files without PyTorch, and without running code that they contain.

A .pth or .bin file holds a pickle, which can run any function. This reader only builds ordered dictionaries, tensors
and parameters, and refuses a file that names anything else. It stays because no maintained package reads these files
without PyTorch, which is far larger than this project. ``torch.load(weights_only=True)`` is not used even if PyTorch is
installed: its rules differ between versions, and it refuses the configurations that training scripts save.

Both formats are supported: the zip archive of PyTorch 1.6 and later, and the sequence of pickles before.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from coupalign.errors import UserError

ZIP_START = b"PK\x03\x04"
LEGACY_START = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)

_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
# Configurations that training scripts save beside the weights. They become empty objects.
_BESIDE = frozenset({("yacs.config", "CfgNode"), ("argparse", "Namespace")})
_UNTRUSTED = (
    "which weights do not need: do not trust the file; download it from its authors, or if it is your own, save only "
    "the state_dict() of the model"
)


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str
    length: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, storage: np.ndarray) -> np.ndarray:
        """The tensor as a view of its storage. NumPy checks the bounds."""
        if math.prod(self.shape) > len(storage):
            raise ValueError("a tensor larger than its storage")
        return np.ndarray(
            self.shape,
            storage.dtype,
            storage,
            self.offset * storage.itemsize,
            [stride * storage.itemsize for stride in self.strides],
        )


def read_torch_file(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], list[str]]:
    """Reads the tensors of a PyTorch file: those under "model" or "state_dict" if there is one, else all.

    Returns:
        Tensors by name (bfloat16 as float32, others in their own dtype), and the names of other content.

    Raises:
        UserError: If the file is damaged, holds no tensors by name, or contains code, which is not run.
    """
    try:
        with open(path, "rb") as file:
            if file.read(len(ZIP_START)) == ZIP_START:
                return _read_zip(file)
            file.seek(0)
            return _read_legacy(file)
    except UserError as error:
        raise UserError(f"{path} {error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): download it again") from error
    except Exception as error:  # a damaged pickle or archive can raise any exception
        raise UserError(f"{path} is a damaged PyTorch file ({error}): download it again") from error


def _read_zip(file: BinaryIO) -> tuple[dict[str, np.ndarray], list[str]]:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        roots = [name.partition("/")[0] for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise UserError("is a zip archive, but not a PyTorch file: choose the checkpoint itself")

        def read(name: str) -> bytes:
            entry = entries[f"{roots[0]}/{name}"]
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{name} is compressed")
            return archive.read(entry)

        if f"{roots[0]}/byteorder" in entries and read("byteorder") != b"little":
            raise UserError("was written on a big-endian machine: save it again on another")
        content, _ = _load(io.BytesIO(read("data.pkl")))
        return _tensors(content, lambda storage: read(f"data/{storage.key}"))


def _read_legacy(file: BinaryIO) -> tuple[dict[str, np.ndarray], list[str]]:
    for _ in range(2):  # magic number, version
        _load(file)
    system, _ = _load(file)
    if system["little_endian"] is not True:
        raise UserError("was written on a big-endian machine: save it again on another")
    content, storages = _load(file)
    keys, _ = _load(file)
    places = {}
    for key in keys:
        length = int.from_bytes(file.read(8), "little")
        places[key] = file.tell(), length * _dtype(storages[key]).itemsize
        file.seek(places[key][1], os.SEEK_CUR)

    def read(storage: _Storage) -> bytes:
        place, size = places[storage.key]
        if size > os.fstat(file.fileno()).st_size - place:
            raise ValueError("the file ends early")
        file.seek(place)
        return file.read(size)

    return _tensors(content, read)


def _load(file: BinaryIO) -> tuple[Any, dict[str, _Storage]]:
    """Loads the pickle at the current position, and moves behind it. Returns its content and the storages it names."""
    start = file.tell()
    for opcode, argument, position in pickletools.genops(file):
        # The memo of a pickle grows to any index that an opcode names, up to all memory.
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > (position or 0) - start:
            raise ValueError("a memo larger than the pickle")
    end = file.tell()
    file.seek(start)
    unpickler = _Unpickler(io.BytesIO(file.read(end - start)))
    return unpickler.load(), unpickler.storages


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}
        # A class of its own, because a pickle can set attributes on it.
        self._beside = type("Beside", (_Beside,), {})

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Call(lambda storage, offset, size, stride, *_: _Tensor(storage, offset, tuple(size), tuple(stride)))
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _Call(lambda tensor, *_: tensor)
        if (module, name) in _BESIDE:
            return self._beside
        raise UserError(f"contains code ({module}.{name}), {_UNTRUSTED}")

    def persistent_load(self, saved: Any) -> _Storage:
        kind, dtype, key, _, length, *view = saved
        if kind != "storage" or dtype not in _STORAGES.values() or any(view):
            raise UserError(
                f"holds an unsupported {kind}: save the state_dict() of the model again with PyTorch 1.6 or later"
            )
        storage = self.storages.setdefault(key, _Storage(key, dtype, length))
        if storage != _Storage(key, dtype, length):
            raise ValueError(f"storage {key} is declared twice")
        return storage


class _Call:
    """A function that a pickle can call but not modify."""

    __slots__ = ("_function",)
    _function: Callable

    def __init__(self, function: Callable):
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(name)


class _Beside:
    """Takes the place of a configuration: accepts any content of a pickle and keeps none."""

    __slots__ = ()

    def __new__(cls, *_: Any) -> _Beside:
        return super().__new__(cls)

    def __init__(self, *_: Any):
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _tensors(content: Any, read: Callable[[_Storage], bytes]) -> tuple[dict[str, np.ndarray], list[str]]:
    """The tensors of the model, and the names of other content."""
    if not isinstance(content, dict):
        raise UserError("holds no tensors by name: save the state_dict() of the model")
    inside = next((key for key in ("model", "state_dict") if isinstance(content.get(key), dict)), None)
    tensors = content if inside is None else content[inside]
    beside = [] if inside is None else [str(key) for key in content if key != inside]
    if not tensors:
        raise UserError("holds no tensors")
    for name, value in tensors.items():
        if not (isinstance(name, str) and isinstance(value, _Tensor)):
            raise UserError(f"holds {name!r}, which is not a tensor: save only the state_dict() of the model")
    storages = {
        storage: _values(storage, read(storage)) for storage in dict.fromkeys(each.storage for each in tensors.values())
    }
    return {name: tensor.array(storages[tensor.storage]) for name, tensor in tensors.items()}, beside


def _values(storage: _Storage, content: bytes) -> np.ndarray:
    if len(content) != storage.length * _dtype(storage).itemsize:
        raise ValueError(f"storage {storage.key} has the wrong length")
    values = np.frombuffer(content, _dtype(storage))
    return widen_bfloat16(values) if storage.dtype == "bfloat16" else values


def widen_bfloat16(values: np.ndarray) -> np.ndarray:
    """bfloat16 numbers, given as uint16 bits, as float32: the bits are its upper half."""
    return (values.astype(np.uint32) << 16).view(np.float32)


def _dtype(storage: _Storage) -> np.dtype:
    return np.dtype("<u2" if storage.dtype == "bfloat16" else storage.dtype)
