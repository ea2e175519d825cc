"""Prints what an environment lacks of a requirements file, on one line: python scripts/missing.py requirements.txt"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path

try:
    from packaging.requirements import Requirement
except ImportError:  # a new environment has it inside pip only
    from pip._vendor.packaging.requirements import Requirement


def missing(path: Path) -> Iterator[str]:
    """Yields the requirements that are not installed in the right version."""
    for line in path.read_text(encoding="utf-8").splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith("-r "):
            yield from missing(path.parent / line[3:])
        elif line:
            required = Requirement(line)
            try:
                found = importlib.metadata.version(required.name)
            except importlib.metadata.PackageNotFoundError:
                found = None
            if found is None or not required.specifier.contains(found, prereleases=True):
                yield line


if __name__ == "__main__":
    print(*missing(Path(sys.argv[1])))
