"""What is there of a data set, and how it compares with what was published."""
from __future__ import annotations

from pathlib import Path

from src.config import Config
from src.data.prepare import Prepared, Source, read_dataset


def check(config: Config, output: Path, source: Source) -> str:
    """A report on the files of a data set; images are looked for, not opened, and nothing is written."""
    dataset = read_dataset(config.dataset, output, source)
    return Prepared({split: dataset.counts(split) for split in dataset.splits}, dataset.problems, False).table()
