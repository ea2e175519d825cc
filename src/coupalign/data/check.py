"""Checks the files of a data set without writing anything."""

from __future__ import annotations

from dataclasses import replace

from coupalign.data.prepare import Prepared, Source, is_json_lines, read_dataset, split_by
from coupalign.data.published import compare, where_to_get
from coupalign.data.referents import EMPTY, ReferDataset
from coupalign.errors import UserError

_SHOWN = 50  # problems


def check(name: str, source: Source) -> tuple[str, bool]:
    """Reports on the files of a data set: what is missing, where to get it, and counts beside the published ones.

    Images are looked for, not decoded. Returns the report, and whether everything is there.

    Raises: UserError if there is no such data set.
    """
    if is_json_lines(source.annotations):
        return check_dataset(read_dataset(name, replace(source, skip=True)))
    whose = split_by(name, source.split_by)
    if source.annotations is None or source.images is None:
        return f"give --annotations and --images, the directories of:\n{where_to_get(name)}", False
    try:
        dataset = read_dataset(name, replace(source, skip=True))
    except UserError as error:
        return f"{error}\n{where_to_get(name)}", False
    counts = {split: dataset.counts(split) for split in dataset.splits}
    left_out = sum(problem.expressions for problem in dataset.problems if problem.kind == EMPTY)
    compared, complete = compare(name, whose, counts, left_out)
    lines = [compared, *_problems(dataset), *([where_to_get(name)] if _wrong(dataset) else [])]
    return "\n".join(lines), complete and not _wrong(dataset)


def check_dataset(dataset: ReferDataset) -> tuple[str, bool]:
    """Reports counts and problems of a data set, and whether everything is there."""
    counts = {split: dataset.counts(split) for split in dataset.splits}
    table = Prepared(counts, dataset.problems, written=False).table()
    return "\n".join([table, *_problems(dataset)]), not _wrong(dataset)


def _problems(dataset: ReferDataset) -> list[str]:
    lines = [f"{problem.kind}: {problem.message}" for problem in dataset.problems[:_SHOWN]]
    more = len(dataset.problems) - len(lines)
    return lines + [f"... and {more:,} more"] * (more > 0)


def _wrong(dataset: ReferDataset) -> bool:
    return any(problem.kind != EMPTY for problem in dataset.problems)
