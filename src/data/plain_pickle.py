"""Pickles of plain data, read without running what is in them."""
from __future__ import annotations

import builtins
import os
import pickle
from typing import Any

from src.errors import UserError


def load_plain_pickle(path: str | os.PathLike) -> Any:
    """The content of a pickle that holds nothing but containers, text, bytes, numbers, bool and None.

    Python 2's text is read as Latin-1, as its pickles of the REFER data sets need.

    Raises: UserError for a file that is missing, is no pickle, or asks for anything else; nothing of it has
        been run then.
    """
    try:
        with open(path, "rb") as file:
            return _PlainUnpickler(file, encoding="latin1").load()
    except UserError as error:
        raise UserError(f"{path} {error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except Exception as error:  # a damaged pickle raises nearly anything
        raise UserError(f"{path} is no pickle, or a damaged one ({error}): fetch it again") from error


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in ("builtins", "__builtin__") and name in ("set", "frozenset"):
            return getattr(builtins, name)
        # How Python 3 writes bytes for Python 2: none at all, and others.
        if module in ("builtins", "__builtin__") and name == "bytes":
            return _no_bytes
        if (module, name) == ("_codecs", "encode"):
            return _latin1_bytes
        raise UserError(f"asks to run {module}.{name}, which a file of referents has no need of: do not trust it, fetch "
                        "it again from the REFER tool's own place")


def _no_bytes() -> bytes:
    return b""


def _latin1_bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise UserError(f"asks to run the codec {encoding}, which a file of referents has no need of: do not trust it")
    return text.encode("latin1")
