"""Pickles of plain data, read without running what is in them."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coupalign.errors import UserError

# Instructions for objects of classes, for what is kept outside of the file, and for bytearrays (of any size it names).
_NOT_PLAIN = (
    "BINPERSID",
    "BUILD",
    "BYTEARRAY8",
    "EXT1",
    "EXT2",
    "EXT4",
    "NEWOBJ",
    "NEWOBJ_EX",
    "NEXT_BUFFER",
    "OBJ",
    "PERSID",
    "READONLY_BUFFER",
)


def load_plain_pickle(path: str | os.PathLike) -> Any:
    """The content of a pickle that holds nothing but containers, text, bytes, numbers, bool and None.

    Python 2's text is read as Latin-1, as its pickles of the REFER data sets need.

    Raises: UserError for a file that is missing, is no pickle, or asks for anything else; nothing of it has
        been run then.
    """
    try:
        return _PlainUnpickler(io.BytesIO(Path(path).read_bytes()), encoding="latin1").load()
    except UserError as error:
        raise UserError(f"{path} {error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except Exception as error:  # a damaged pickle raises nearly anything
        raise UserError(f"{path} is no pickle, or a damaged one ({type(error).__name__}): fetch it again") from error


def _refuse(what: str) -> UserError:
    return UserError(
        f"asks to run {what}, which plain data have no need of: do not trust it, fetch it again from its "
        "authors' own place"
    )


def _refusing(instruction: str) -> Callable[[_PlainUnpickler], None]:
    def refuse(unpickler: _PlainUnpickler) -> None:
        raise _refuse(f"the instruction {instruction}")

    return refuse


class _PlainUnpickler(pickle._Unpickler):
    """In Python, because the one in C reserves memory for as many objects as a file claims: 8 bytes can take 64 GB."""

    dispatch = pickle._Unpickler.dispatch | {getattr(pickle, name)[0]: _refusing(name) for name in _NOT_PLAIN}

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if module in ("builtins", "__builtin__") and name in ("set", "frozenset"):
            return set if name == "set" else frozenset
        # How Python 3 writes bytes for Python 2: none at all, and others.
        if module in ("builtins", "__builtin__") and name == "bytes":
            return _no_bytes
        if (module, name) == ("_codecs", "encode"):
            return _latin1_bytes
        raise _refuse(f"{module}.{name}")


def _no_bytes() -> bytes:
    return b""


def _latin1_bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise _refuse(f"the codec {encoding}")
    return text.encode("latin1")
