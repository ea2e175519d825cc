"""PyTorch's files, read without PyTorch and without running what is in them.

A .pth or .bin file holds a pickle, and a pickle can ask to run anything. This reader knows ordered dictionaries,
tensors and parameters, and refuses the file for whatever else it asks, before that is looked up. It reads where
PyTorch is installed, too: a second way, ``torch.load(weights_only=True)``, would have other rules in every version, and
refuse the configurations that official training scripts save beside the weights.

Both of PyTorch's formats are read: the zip archive it writes since 1.6, and the row of pickles and storages before.
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
# What training scripts save beside the weights. Nothing is built of it: an empty object takes its place.
_BESIDE = frozenset({("yacs.config", "CfgNode"), ("argparse", "Namespace")})
_TOO_MUCH = (
    "which weights have no need of: do not trust the file, fetch it from its authors' own place; or if it is "
    "your own, save nothing but the model's state_dict()"
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
        """The tensor in its storage, not copied. NumPy checks that it lies within."""
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
    """The tensors of a file of PyTorch's: those under "model" or "state_dict" where there is one, else all.

    Returns: tensors by name (bfloat16 as float32, others in their own type), and the names of what is beside them.

    Raises: UserError for a file that is broken, holds something else, or asks to run anything; nothing of it has been
        run then.
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
        raise UserError(f"{path} cannot be read ({error.strerror or error}): fetch it again") from error
    except Exception as error:  # a damaged pickle or archive raises nearly anything
        raise UserError(f"{path} is no checkpoint of PyTorch's, or a damaged one ({error}): fetch it again") from error


def _read_zip(file: BinaryIO) -> tuple[dict[str, np.ndarray], list[str]]:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        roots = [name.partition("/")[0] for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise UserError("is a zip archive, but none of PyTorch's: give the checkpoint itself")

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
    """The pickle that begins where the file stands, and the storages it names; the file then stands behind it."""
    start = file.tell()
    for opcode, argument, position in pickletools.genops(file):
        # The memo grows to any index it is told, which can be all the memory there is.
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
        # A class of this pickle's own, for what it sets on a class must not reach the next.
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
        raise UserError(f"asks to run {module}.{name}, {_TOO_MUCH}")

    def persistent_load(self, saved: Any) -> _Storage:
        kind, dtype, key, _, length, *view = saved
        if kind != "storage" or dtype not in _STORAGES.values() or any(view):
            raise UserError(
                f"holds a {kind} of a kind that is not read: save the model's state_dict() again with "
                "PyTorch 1.6 or later"
            )
        storage = self.storages.setdefault(key, _Storage(key, dtype, length))
        if storage != _Storage(key, dtype, length):
            raise ValueError(f"storage {key} is described twice")
        return storage


class _Call:
    """A function that a pickle may call, but cannot set anything on."""

    __slots__ = ("_function",)
    _function: Callable

    def __init__(self, function: Callable):
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(name)


class _Beside:
    """Stands for an object whose content is not wanted: takes whatever a pickle fills it with, and keeps nothing."""

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
    """The tensors that are the model's, and the names of what is beside them."""
    if not isinstance(content, dict):
        raise UserError("holds no tensors by name: save the model's state_dict()")
    inside = next((key for key in ("model", "state_dict") if isinstance(content.get(key), dict)), None)
    tensors = content if inside is None else content[inside]
    beside = [] if inside is None else [str(key) for key in content if key != inside]
    strange = [name for name, value in tensors.items() if not (isinstance(name, str) and isinstance(value, _Tensor))]
    if strange or not tensors:
        raise UserError(
            f"holds no tensors by name ({strange[0]!r} is none): save the model's state_dict()"
            if strange
            else "holds no tensors"
        )
    storages = {
        storage: _values(storage, read(storage)) for storage in dict.fromkeys(each.storage for each in tensors.values())
    }
    return {name: tensor.array(storages[tensor.storage]) for name, tensor in tensors.items()}, beside


def _values(storage: _Storage, content: bytes) -> np.ndarray:
    if len(content) != storage.length * _dtype(storage).itemsize:
        raise ValueError(f"storage {storage.key} has not the length it should have")
    values = np.frombuffer(content, _dtype(storage))
    return widen_bfloat16(values) if storage.dtype == "bfloat16" else values


def widen_bfloat16(values: np.ndarray) -> np.ndarray:
    """The bits of bfloat16 numbers, uint16, as float32: they are its upper half."""
    return (values.astype(np.uint32) << 16).view(np.float32)


def _dtype(storage: _Storage) -> np.dtype:
    return np.dtype("<u2" if storage.dtype == "bfloat16" else storage.dtype)
