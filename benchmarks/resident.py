"""Resident memory of this process. Linux only.

getrusage is no alternative: the peak of a child process starts at its parent's.
"""

from __future__ import annotations

from pathlib import Path


def resident(name: str) -> int:
    """Resident memory in bytes: "VmRSS" is the current value, "VmHWM" the peak."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024
