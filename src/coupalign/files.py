"""Files that are either whole or not there, and where relative paths lead."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coupalign.errors import UserError

_PACKAGE = Path(__file__).resolve().parent
# The repository of a checkout; of an installed package its copy of the repository's files.
REPOSITORY = _PACKAGE / "root" if (_PACKAGE / "root").is_dir() else _PACKAGE.parent.parent


def find_file(path: str | os.PathLike) -> Path:
    """The file or directory an input path of the configuration or the command line means.

    A relative path is relative to the working directory; where nothing is there but something is under the
    repository's root, that is meant, so that ``assets/…`` and ``configs/…`` are found from anywhere.
    Returns the path relative to the working directory when neither exists, for the caller to report.
    """
    path = Path(path).expanduser()
    if not path.is_absolute() and not path.exists() and (REPOSITORY / path).exists():
        return REPOSITORY / path
    return path


def make_directory(path: str | os.PathLike) -> Path:
    """The directory `path`, made with its parents if missing. Raises UserError where that cannot be done."""
    path = Path(path).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{path} cannot be a directory, a file is in its place: choose another path") from error
    except OSError as error:
        raise UserError(f"{path} cannot be made ({error.strerror}): choose another path") from error
    return path


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def check_writable(path: str | os.PathLike) -> Path:
    """The file `path`, whose directory is made as needed. Raises UserError where it can be seen not to be writable."""
    path = Path(path).expanduser()
    make_directory(path.parent)
    if path.is_dir():
        raise UserError(f"{path} is a directory, not a file: choose another path")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path.parent} is not writable: choose another path")
    return path


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yields the name of a file beside `path`, with its suffix, that becomes `path` when the block succeeds.

    The block writes the file; when it raises, the file is removed and `path` keeps what it held. Directories
    are made as needed. Raises UserError where `path` cannot be written, before the block runs where possible.
    """
    path = check_writable(path)
    # The suffix stays last because MindSpore appends its own to names that lack it.
    temporary = path.with_name(f".{path.stem[:100]}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        # Only what concerns this very file is the disk's doing; anything else is not ours to explain.
        if error.filename is None or str(error.filename) == str(temporary):
            raise UserError(f"{path} cannot be written ({error.strerror or error})") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
