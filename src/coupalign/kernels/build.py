"""Compiles the kernels to a shared library, once per kind of machine, in the user's cache directory."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import subprocess
from functools import cache
from pathlib import Path

import mindspore

from coupalign.errors import UserError
from coupalign.files import atomic_path, cache_directory

logger = logging.getLogger(__name__)

SOURCES = Path(__file__).parent
# Without errno and traps, compilers vectorise square roots and conditions. Values stay the same.
FLAGS = "-std=c++17 -O3 -march=native -fopenmp-simd -fno-math-errno -fno-trapping-math -fPIC -pthread -shared".split()


@cache
def library() -> Path | None:
    """Path of the library; None, with one warning, if it cannot be compiled.

    ``$CXX`` (default: g++) compiles it into ``$XDG_CACHE_HOME/coupalign`` (default: ``~/.cache/coupalign``). It uses as
    many threads as MindSpore.
    """
    try:
        compiler = shlex.split(os.environ.get("CXX", "g++"))
        path = cache_directory() / f"kernels-{_digest(compiler)}.so"
        if not path.exists():
            with atomic_path(path) as temporary:
                _run([*compiler, *FLAGS, "-o", str(temporary), *map(str, sorted(SOURCES.glob("*.cc")))])
        loaded = ctypes.CDLL(str(path))
        loaded.set_threads(min(len(os.sched_getaffinity(0)), mindspore.get_context("runtime_num_threads")))
    except (OSError, RuntimeError, UserError, subprocess.SubprocessError) as error:
        logger.warning(
            "no kernels for the CPU (%s): slower operators of MindSpore are used. Kernels need g++ 9 or newer, or another "
            "compiler named by CXX, and a writable cache directory",
            " ".join(str(error).split()),
        )
        return None
    return path


def _digest(compiler: list[str]) -> str:
    """Digest of sources, flags, compiler and processor, as Linux reports it on x86-64 and ARM."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = ("model name", "flags", "CPU implementer", "CPU part", "Features")
    processor = sorted({line for line in lines if line.split(":")[0].strip() in names})
    digest = hashlib.sha256(repr((FLAGS, _run([*compiler, "--version"]), platform.machine(), processor)).encode())
    for file in sorted((*SOURCES.glob("*.cc"), *SOURCES.glob("*.h"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _run(command: list[str]) -> str:
    done = subprocess.run(command, text=True, timeout=300, check=False, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeError(f"{command[0]}: {next((line for line in lines if 'error' in line), lines[-1])}")
    return done.stdout
