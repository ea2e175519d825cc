"""Paths, checks of outputs, text files and tables, and files that are written whole or not at all."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coupalign.errors import UserError

_PACKAGE = Path(__file__).resolve().parent
# The root of a checkout; in an installed package, the directory with copies of the files that the package needs.
REPOSITORY = _PACKAGE / "resources" if (_PACKAGE / "resources").is_dir() else _PACKAGE.parent.parent

SAFETENSORS = ".safetensors"
CHECKPOINTS = (".ckpt", SAFETENSORS)  # suffixes of the files that hold weights


def find_file(path: str | os.PathLike) -> Path:
    """The file or directory that an input path means; ``~`` is the home directory.

    A relative path is relative to the working directory or, if nothing is there, to the repository, so that
    ``assets/…`` and ``configs/…`` are found from anywhere. A path that leads nowhere is returned as it is.
    """
    path = Path(path).expanduser()
    if not path.is_absolute() and not path.exists() and (REPOSITORY / path).exists():
        return REPOSITORY / path
    return path


def find_checkpoint(path: str | os.PathLike) -> Path:
    """The checkpoint file that `path` means. Raises: UserError if it is missing, unreadable or another file."""
    path = find_file(path)
    if not path.is_file():
        raise UserError(f"no checkpoint {path}: check the path (train.py writes checkpoints to output_dir)")
    if not os.access(path, os.R_OK):
        raise UserError(f"checkpoint {path} cannot be read: check its permissions")
    if path.suffix not in CHECKPOINTS:
        raise UserError(
            f"{path} is not a checkpoint (.ckpt or .safetensors): convert weights of other frameworks with "
            "convert_weights.py"
        )
    return path


def check_directory(path: str | os.PathLike) -> Path:
    """The directory `path`, which can be written, or made and written. Nothing is made. Raises: UserError."""
    path = Path(path).expanduser()
    existing = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not existing.is_dir():
        raise UserError(f"{path} cannot be a directory because {existing} is a file: choose another path")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{existing} is not writable: choose another path")
    return path


def check_writable(path: str | os.PathLike) -> Path:
    """The file `path`, which can be written as far as permissions tell. Nothing is made. Raises: UserError."""
    path = Path(path).expanduser()
    check_directory(path.parent)
    if path.is_dir():
        raise UserError(f"{path} is a directory, not a file: choose another path")
    return path


def make_directory(path: str | os.PathLike) -> Path:
    """The directory `path`, made with its parents if missing. Raises: UserError if that fails."""
    path = check_directory(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be made ({error.strerror}): choose another path") from error
    return path


def cache_directory() -> Path:
    """Directory of files that can be made again, ``$XDG_CACHE_HOME/coupalign`` (default: ``~/.cache/coupalign``)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "coupalign"


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yields the name of a file beside `path`, with its suffix, that becomes `path` when the block succeeds.

    The block writes the file. If it raises, the file is removed and `path` keeps its content. Directories are made
    as needed. Raises: UserError if `path` cannot be written, before the block runs where possible.
    """
    path = check_writable(path)
    make_directory(path.parent)
    # The suffix stays last because MindSpore appends its own to names without it.
    temporary = path.with_name(f".{path.stem[:100]}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        use_umask(temporary)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        # An error of another file is not ours to explain.
        if error.filename is None or str(error.filename) == str(temporary):
            raise UserError(f"{path} cannot be written ({error.strerror or error})") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def use_umask(path: Path) -> None:
    """Gives a file the usual permissions. MindSpore writes files that only their owner can read."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def read_text(path: Path, option: str) -> str:
    """The text of a UTF-8 file, with or without a byte order mark. Raises: UserError, which names the `option`."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check {option}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8: save it as UTF-8") from error


def read_table(path: Path, option: str) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """A CSV file in UTF-8 with a header. Commas, semicolons or tabs separate: whichever the header has most of.

    Returns: The names of the columns; line and values by name of each row that is not blank.

    Raises: UserError, which names the line, or the `option` that the file was given with.
    """
    content = read_text(path, option)
    header = content.partition("\n")[0]
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=max(",;\t", key=header.count), strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        rows = [(reader.line_num, values) for values in reader if any(value.strip() for value in values)]
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num}: not a row of CSV ({error}): correct it") from error
    if len(set(names)) < len(names):
        raise UserError(f"{path} line 1: two columns have one name: rename or remove one of {', '.join(names)}")
    for number, values in rows:
        if len(values) != len(names):
            remedy = "put text with separators in double quotes"
            if len(values) < len(names):
                remedy = "separate as many values as there are columns; a value may be empty"
            raise UserError(f"{path} line {number}: {len(values)} values for {len(names)} columns: {remedy}")
    return names, [(number, dict(zip(names, values))) for number, values in rows]


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a UTF-8 file atomically. Raises: UserError as `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
