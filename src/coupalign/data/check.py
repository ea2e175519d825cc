"""What is there of a data set, and how it compares with what was published."""

from __future__ import annotations

from pathlib import Path

from coupalign.config import Config
from coupalign.data.prepare import Prepared, Source, read_dataset, split_by
from coupalign.data.published import check_files, report
from coupalign.data.refer import read_refer
from coupalign.data.referents import EMPTY, ReferDataset
from coupalign.errors import UserError

_SHOWN = 10  # problems


def check(config: Config, output: Path, source: Source) -> tuple[str, bool]:
    """A report on the files of a data set, and whether all of it can be used. Nothing is written.

    Of a published data set it says what is missing, where that is to be had, and how the counts differ from the published
    ones. Images are looked for, not opened.

    Raises: UserError where there is no such data set.
    """
    if config.data.dataset == "refshapes" or (source.annotations and source.annotations.suffix == ".jsonl"):
        dataset = read_dataset(
            config.data.dataset, output, Source(source.annotations, source.images, source.split_by, skip=True)
        )
        counts = {split: dataset.counts(split) for split in dataset.splits}
        return "\n".join([Prepared(counts, dataset.problems, False).table(), *_problems(dataset)]), not _wrong(dataset)
    whose = split_by(config.data.dataset, source.split_by)
    listing, complete = check_files(config.data.dataset, whose, source.annotations, source.images)
    if source.annotations is None:
        return listing, False
    try:
        dataset = read_refer(source.annotations, source.images, whose, skip=True)
    except UserError as error:
        return f"{listing}\n{error}", False
    compared = report(config.data.dataset, whose, {split: dataset.counts(split) for split in dataset.splits})
    return "\n".join([listing, compared, *_problems(dataset)]), complete and not _wrong(dataset)


def _problems(dataset: ReferDataset) -> list[str]:
    lines = [f"{problem.kind}: {problem.message}" for problem in dataset.problems[:_SHOWN]]
    more = len(dataset.problems) - len(lines)
    return lines + [f"… and {more:,} more"] * (more > 0)


def _wrong(dataset: ReferDataset) -> bool:
    return any(problem.kind != EMPTY for problem in dataset.problems)
