"""results.csv and results.md of a study."""
from __future__ import annotations

from pathlib import Path

from src.files import atomic_path
from src.study.results import as_csv, read_found
from src.study.study_file import Study


def write_results(study: Study, output: str | Path) -> list[Path]:
    """Writes both from the runs that are done. Returns: their paths."""
    found = read_found(study, output)
    paths = []
    for name, text in (("results.csv", as_csv(found)),):
        paths.append(Path(output, name))
        with atomic_path(paths[-1]) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return paths
