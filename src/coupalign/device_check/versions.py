"""Versions of driver, libraries and packages, and whether they belong together."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

from coupalign.device_check.rows import Outcome

# MindSpore: (mindformers, CANN, driver), as the mindformers packages name them.
PAIRS = {
    "2.9.0": ("1.9.0", "9.0.0", "26.0.RC1"),
    "2.10.0": ("2.0.0", "9.1.0", "26.1.0"),
    "2.11.0": ("2.1.0", "9.2.0", "26.2.RC1"),
}
# What MindSpore 2.9's own check accepts besides, and what its packages for GPU are built for.
ACCEPTED_CANN, CUDA = ("8.2", "8.3", "8.5", "9.0"), ("11.1", "11.6")
UNKNOWN = "unknown"
VERSIONS = "versions.json"  # file of what find_versions found, for the process that checks it


def find_versions(device_target: str) -> dict[str, str]:
    """Versions by name, "unknown" where none is found."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    found |= {name: _package(name) for name in ("mindspore", "mindformers", "numpy")}
    if device_target == "Ascend":
        home = Path(os.environ.get("ASCEND_HOME_PATH", "/usr/local/Ascend/ascend-toolkit/latest"))
        found["cann"] = _entry(home / "compiler/version.info")
        found["driver"] = _entry(Path("/usr/local/Ascend/driver/version.info"))
        found["device"] = _printed(["npu-smi", "info"], r"\|\s*0\s+(\S+)\s*\|")
    elif device_target == "GPU":
        nvcc = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin/nvcc")
        found["cuda"] = _printed([str(nvcc), "--version"], r"release ([\d.]+)")
        for name, query in (("driver", "driver_version"), ("device", "name")):
            found[name] = _printed(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"], r"(.+)")
    return found


def check_versions(found: dict[str, str], device_target: str) -> Outcome:
    """FAIL for versions that are documented not to work together, WARN for others that were not named together."""
    failures, warnings = [], []
    mindformers, cann, driver = PAIRS.get(found["mindspore"], (None, None, None))
    if mindformers is None:
        warnings.append(f"MindSpore {found['mindspore']} is not among {', '.join(PAIRS)}")
    elif found["mindformers"] != mindformers:
        failures.append(f"install mindformers {mindformers}")
    if device_target == "Ascend" and cann:
        if found["cann"] == UNKNOWN:
            warnings.append(f"CANN not found (expected {cann}): source its set_env.sh")
        elif not found["cann"].startswith(cann.rpartition(".")[0]):
            accepted = found["mindspore"] == "2.9.0" and found["cann"].startswith(ACCEPTED_CANN)
            (warnings if accepted else failures).append(f"CANN {cann} belongs to MindSpore {found['mindspore']}")
        if found["driver"].lower() != driver.lower():
            warnings.append(f"driver {driver} belongs to CANN {cann}")
    if device_target == "GPU" and found["cuda"] not in CUDA:
        (warnings if found["cuda"] == UNKNOWN else failures).append(f"CUDA {' or '.join(CUDA)} is needed")
    versions = ", ".join(f"{name} {version}" for name, version in found.items())
    status = "FAIL" if failures else "WARN" if warnings else "PASS"
    return Outcome(note="; ".join([*failures, *warnings, versions]), status=status)


def _package(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return UNKNOWN


def _entry(path: Path) -> str:
    """The line ``Version=…`` of a file."""
    try:
        match = re.search(r"^Version=(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return UNKNOWN
    return match[1] if match else UNKNOWN


def _printed(command: list[str], pattern: str) -> str:
    """The first match in what a program prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return UNKNOWN
    match = re.search(pattern, done.stdout)
    return match[1].strip() if match else UNKNOWN
