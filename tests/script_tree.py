"""Where the tests of shell scripts run them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from coupalign.files import REPOSITORY


def make_tree(root: Path, programs: Mapping[str, str]) -> Path:
    """A copy of scripts/ in directory `root`, with an environment of these programs, a c.yaml and data/; `root`."""
    shutil.copytree(REPOSITORY / "scripts", root / "scripts")
    shutil.copy(REPOSITORY / "requirements.txt", root)
    (root / ".venv/bin").mkdir(parents=True)
    for name, text in programs.items():
        (root / ".venv/bin" / name).write_text(text)
        (root / ".venv/bin" / name).chmod(0o755)
    (root / ".venv/bin/activate").write_text(f"PATH={root}/.venv/bin:$PATH")
    digest = hashlib.sha256((root / "requirements.txt").read_bytes()).hexdigest()[:12]
    (root / f".venv/installed-{digest}-requirements.txt").touch()
    (root / "c.yaml").touch()
    (root / "data").mkdir()
    return root
