"""Compiled graphs in the user's cache directory, so that a later process starts sooner and with less memory.

MindSpore can write a graph to a directory once it is optimised (``MS_COMPILER_CACHE_ENABLE``) and read it again. It only
checks whether the program's own file has changed, tells graphs apart by their order in the process, and keeps to the
first directory that it was given. So here each graph has a directory of its own, named after all that it depends on,
and only the first graph of a process uses it. Only programs of this package use it, as others may have changed its code in
memory.
"""

from __future__ import annotations

import ast
import ctypes
import hashlib
import logging
import os
import platform
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import mindspore
import numpy as np
from mindspore import Tensor, nn

import coupalign
from coupalign import devices
from coupalign.config import Config
from coupalign.files import cache_directory, sha256
from coupalign.kernels.build import library

logger = logging.getLogger(__name__)

_SWITCH, _PATH = "MS_COMPILER_CACHE_ENABLE", "MS_COMPILER_CACHE_PATH"  # MindSpore's environment variables
_CHECKSUMS = "sha256"  # file of a directory, written last
_MOST = 16  # graphs that are kept
_ABANDONED = 24 * 3600  # seconds after which an unfinished graph's process is taken to be dead
# What also decides on graphs or on what executes them.
_VARIABLES = ("MS_", "MINDSPORE_", "ONEDNN_", "DNNL_", "OMP_")
_CONTEXT = (
    "mode",
    "jit_level",
    "jit_config",
    "jit_syntax_level",
    "enable_graph_kernel",
    "graph_kernel_flags",
    "deterministic",
)

_LIBC = ctypes.CDLL(None)

_is_used = False  # whether this process has used the cache


def compile_cached(network: nn.Cell, inputs: Sequence[Tensor], config: Config) -> None:
    """Compiles `network` for `inputs`, or reads its graph if an earlier process compiled the same one.

    Does nothing, so that the first call compiles, after the first graph of a process, and where the cache was not
    tested: on devices, with several ranks, outside of Python programs, if the user has set MindSpore's own switch, or if
    sources of the package have changed since this process imported them.
    """
    global _is_used
    own = (
        any(name in os.environ for name in (_SWITCH, _PATH))
        or mindspore.get_context("enable_compile_cache") is not None
    )
    if _is_used or own or not devices.on_cpu() or devices.rank_count() > 1 or not _is_program():
        return
    _is_used = True
    try:
        if not _sources_are_imported():
            return
        graphs = _private_directory()
        _remove_old(graphs)
        directory, temporary = graphs / _digest(network, inputs, config), graphs / f".{uuid.uuid4().hex}"
        try:
            # A copy, which no other process replaces between the check and the reading.
            if directory.is_dir():
                shutil.copytree(directory, temporary)
                os.utime(directory)
            if not _is_intact(temporary):
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(0o700)
                _compile(network, inputs, temporary)
                _keep(temporary, directory)
            else:
                _compile(network, inputs, temporary)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except (OSError, ImportError, RuntimeError, SyntaxError, ValueError) as error:
        logger.info("the cache of compiled graphs is not used: %s", " ".join(str(error).split()))


def _private_directory() -> Path:
    """The directory of all graphs. Raises: OSError if other users could write there."""
    graphs = cache_directory() / "graphs"
    graphs.parent.mkdir(parents=True, exist_ok=True)
    graphs.mkdir(0o700, exist_ok=True)
    for directory, forbidden in ((graphs, 0o077), (graphs.parent, 0o002)):
        status = directory.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & forbidden:
            raise OSError(f"{directory} is not a directory of this user alone")
    return graphs


def _remove_old(graphs: Path) -> None:
    """Removes the graphs that were used least recently, and what processes left that were killed."""
    by_age = sorted(graphs.iterdir(), key=lambda each: each.stat().st_mtime, reverse=True)
    left = [each for each in by_age if each.name[0] == "." and time.time() - each.stat().st_mtime > _ABANDONED]
    for each in left + [each for each in by_age if each.name[0] != "."][_MOST - 1 :]:
        shutil.rmtree(each, ignore_errors=True)


def _compile(network: nn.Cell, inputs: Sequence[Tensor], directory: Path) -> None:
    os.environ[_SWITCH], os.environ[_PATH] = "1", str(directory)
    try:
        network.compile(*inputs)
        if hasattr(_LIBC, "malloc_trim"):  # glibc; the compiler leaves free memory between small pieces that are in use
            _LIBC.malloc_trim(0)
    finally:
        del os.environ[_SWITCH], os.environ[_PATH]


def _keep(temporary: Path, directory: Path) -> None:
    if _sources_are_imported():  # still, after a compilation that may take minutes
        (temporary / _CHECKSUMS).write_text(_checksums(temporary), encoding="utf-8")
        shutil.rmtree(directory, ignore_errors=True)  # a damaged one
        os.replace(temporary, directory)


def _sources_are_imported() -> bool:
    """Whether the package's sources are those that this process imported, whose constants are in its graphs."""
    ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return max(file.stat().st_ctime for file in _sources()) < time.time() - age


def _sources() -> list[Path]:
    return sorted(Path(coupalign.__file__).parent.rglob("*.py"))


def _is_program() -> bool:
    """Whether the process runs a Python file, whose text MindSpore can parse."""
    try:
        ast.parse(Path(sys.argv[0]).read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return False
    return True


def _is_intact(directory: Path) -> bool:
    try:
        return (directory / _CHECKSUMS).read_text(encoding="utf-8") == _checksums(directory)
    except (OSError, UnicodeDecodeError):
        return False


def _checksums(directory: Path) -> str:
    files = sorted(each for each in directory.rglob("*") if each.is_file() and each.name != _CHECKSUMS)
    return "".join(f"{sha256(each)} {each.relative_to(directory)}\n" for each in files)


def _digest(network: nn.Cell, inputs: Sequence[Tensor], config: Config) -> str:
    """Digest of all that a graph depends on: code, settings, the network's structure and constants, and input shapes."""
    cells = [
        (name, type(cell).__module__, type(cell).__qualname__, cell.get_flags(), _settings(cell))
        for name, cell in network.cells_and_names()
    ]
    parts = (
        (platform.machine(), sys.version, mindspore.__version__, np.__version__, str(library())),
        sorted(each for each in os.environ.items() if each[0].startswith(_VARIABLES)),
        [(name, mindspore.get_context(name)) for name in _CONTEXT],
        (asdict(config.model), config.run.precision, config.run.cpu_kernels, config.run.jit_level),
        (cells, [(name, each.shape, str(each.dtype)) for name, each in network.parameters_dict().items()]),
        [(each.shape, str(each.dtype)) for each in inputs],
    )
    digest = hashlib.sha256(repr(parts).encode())
    for file in (Path(sys.argv[0]).resolve(), *_sources()):
        digest.update(f"{file} ".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:32]


def _settings(cell: nn.Cell) -> list[tuple[str, object]]:
    """The attributes of a Cell, which its graph holds as constants."""
    own = type(cell).__module__.startswith(coupalign.__name__)  # others keep initial weights, which no graph uses
    attributes = [(name, each) for name, each in vars(cell).items() if name[0] != "_"]
    return sorted((name, repr(_value(each))) for name, each in attributes if own or not isinstance(each, Tensor))


def _value(attribute: object) -> object:
    """Numbers and text, alone or in sequences, digests of tensors, and types of all else."""
    if isinstance(attribute, Tensor):
        return str(attribute.dtype), attribute.shape, hashlib.sha256(attribute.asnumpy().tobytes()).hexdigest()
    if isinstance(attribute, (tuple, list)):
        return [_value(each) for each in attribute]
    return attribute if isinstance(attribute, (bool, int, float, str)) else type(attribute)
