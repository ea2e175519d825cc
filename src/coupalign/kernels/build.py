"""The shared library of the kernels: compiled once on each kind of machine, and kept in the user's cache."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import mindspore

from coupalign.errors import UserError
from coupalign.files import atomic_path

SOURCES = Path(__file__).parent
# Without errno and traps compilers turn square roots and conditions into vector instructions; values stay the same.
FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fopenmp-simd",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-pthread",
    "-shared",
)


@cache
def library() -> Path | None:
    """Path of the library, or None where it cannot be had, which is said once.

    Compiled by ``$CXX``, or g++, into ``$XDG_CACHE_HOME/coupalign``, or ``~/.cache/coupalign``. Its threads are as many
    as MindSpore's.
    """
    try:
        compiler = shlex.split(os.environ.get("CXX", "g++"))
        path = _cache() / f"kernels-{_digest(compiler)}.so"
        if not path.exists():
            with atomic_path(path) as temporary:
                _run([*compiler, *FLAGS, "-o", str(temporary), *map(str, sorted(SOURCES.glob("*.cc")))])
        loaded = ctypes.CDLL(str(path))
        loaded.set_threads(min(len(os.sched_getaffinity(0)), mindspore.get_context("runtime_num_threads")))
    except (OSError, RuntimeError, UserError, subprocess.SubprocessError) as error:
        reason = " ".join(str(error).split())
        print(
            f"warning: no kernels for the CPU, so MindSpore's own operators are used, which are slower ({reason}); "
            "they need g++ 9 or newer (or another compiler, named by CXX) and a cache directory that can be written",
            file=sys.stderr,
            flush=True,
        )
        return None
    return path


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "coupalign"


def _digest(compiler: list[str]) -> str:
    """Of all that the library follows from: sources, flags, compiler, and what the processor can do."""
    digest = hashlib.sha256(repr((FLAGS, _run([*compiler, "--version"]), platform.machine(), _processor())).encode())
    for file in sorted((*SOURCES.glob("*.cc"), *SOURCES.glob("*.h"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _processor() -> list[str]:
    """Its model and instruction sets, as Linux names them on x86-64 and on ARM."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = ("model name", "flags", "CPU implementer", "CPU part", "Features")
    return sorted({line for line in lines if line.split(":")[0].strip() in names})


def _run(command: list[str]) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        lines = done.stdout.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeError(f"{command[0]}: {next((line for line in lines if 'error' in line), lines[-1])}")
    return done.stdout
