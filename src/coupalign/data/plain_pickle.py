"""Reads pickles of plain data without running code from them."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coupalign.errors import UserError

# Instructions for objects of classes, for data outside of the file, and for bytearrays (whose size the file claims).
_NOT_PLAIN = "BINPERSID BUILD BYTEARRAY8 EXT1 EXT2 EXT4 NEWOBJ NEWOBJ_EX NEXT_BUFFER OBJ PERSID READONLY_BUFFER".split()


def load_plain_pickle(path: str | os.PathLike) -> Any:
    """Reads a pickle that only holds containers, text, bytes, numbers, bool and None.

    Text of Python 2 is read as UTF-8 or, where it is not valid UTF-8, as Latin-1.

    Raises:
        UserError: The file is missing, not a pickle, or contains anything else, of which nothing has been run.
    """
    try:
        return _PlainUnpickler(io.BytesIO(Path(path).read_bytes()), encoding="utf-8").load()
    except UserError as error:
        raise UserError(f"{path} {error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except Exception as error:  # a damaged pickle raises nearly anything
        raise UserError(f"{path} is not a pickle or is damaged ({type(error).__name__}): download it again") from error


def _refuse(what: str) -> UserError:
    return UserError(
        f"wants to run {what}, which plain data do not need: do not trust it, download it again from its authors"
    )


def _refusing(instruction: str) -> Callable[[_PlainUnpickler], None]:
    def refuse(unpickler: _PlainUnpickler) -> None:
        raise _refuse(f"the instruction {instruction}")

    return refuse


class _PlainUnpickler(pickle._Unpickler):
    """In Python, because the unpickler in C reserves memory for as many objects as a file claims, even 64 GB."""

    dispatch = pickle._Unpickler.dispatch | {getattr(pickle, name)[0]: _refusing(name) for name in _NOT_PLAIN}  # type: ignore

    def _decode_string(self, value: bytes) -> str:
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value.decode("latin1")

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if module in ("builtins", "__builtin__") and name in ("set", "frozenset"):
            return set if name == "set" else frozenset
        # Python 3 writes bytes for Python 2 in these two ways: empty, and others.
        if module in ("builtins", "__builtin__") and name == "bytes":
            return lambda: b""
        if (module, name) == ("_codecs", "encode"):
            return _latin1_bytes
        raise _refuse(f"{module}.{name}")


def _latin1_bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise _refuse(f"the codec {encoding}")
    return text.encode("latin1")
