"""A study as its file describes it: rows, which are configurations, and tables of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coupalign.config import Config, ConfigError, load_config, read_mapping
from coupalign.errors import UserError
from coupalign.evaluation.metric import PRECISIONS
from coupalign.files import find_file

METRICS = ("oIoU", "mIoU", *(f"prec@0.{tenths}" for tenths in PRECISIONS))
# Set by a study itself.
OWN_KEYS = ("seed", "output_dir", "resume")


@dataclass(frozen=True)
class Entry:
    """A row of a table: the study's row, what it is called there, the paper's figures in per cent by metric."""

    row: str
    label: str
    paper: Mapping[str, float]


@dataclass(frozen=True)
class Table:
    """Attributes: name, on the command line; title; seeds of each row; entries."""

    name: str
    title: str
    seeds: tuple[int, ...]
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Run:
    """A row trained with a seed."""

    row: str
    seed: int

    def __str__(self) -> str:
        return f"{self.row}/{self.seed}"


@dataclass(frozen=True)
class Study:
    """Attributes:
    path: of the file.
    base: all keys of the configuration that the rows start from.
    rows: by name, the keys that differ.
    reference: the row that the others are compared with.
    split, family: of the evaluation that tables show; family "" is all.
    failures: rows whose failures are set side by side.
    tables: in the order of work.
    """

    path: Path
    base: dict[str, Any]
    rows: dict[str, dict[str, Any]]
    reference: str
    split: str
    family: str
    failures: tuple[str, ...]
    tables: tuple[Table, ...] = field(default=())

    def runs(self, only: str = "") -> list[Run]:
        """Every (row, seed) once: table by table, and seed by seed through the rows of a table.

        Args:
            only: name of a table, of a row, or row/seed; "" is all.

        Raises: UserError where there is no such.
        """
        tables = [table for table in self.tables if table.name == only] or self.tables
        runs = list(dict.fromkeys(_in_order(tables)))
        if only and tables is self.tables:
            runs = [run for run in runs if only in (run.row, str(run))]
            if not runs:
                raise UserError(
                    f"{self.path} has no table, row or row/seed {only!r}: it has the tables "
                    f"{', '.join(table.name for table in self.tables)} and the rows {', '.join(self.rows)}"
                )
        return runs

    def config(self, run: Run, output_dir: str | os.PathLike, base: Mapping[str, Any] | None = None) -> Config:
        """The configuration of a run. Args: output_dir of the study; base in place of the study's own."""
        return load_config(
            overrides={
                **(base or self.base),
                **self.rows[run.row],
                "seed": run.seed,
                "resume": "auto",
                "output_dir": str(Path(output_dir, run.row, str(run.seed))),
            }
        )


def read_study(path: str | os.PathLike) -> Study:
    """Reads a study file. Raises: UserError, in one line, for whatever does not fit; docs/study.md has the format."""
    path = find_file(path)
    content = read_mapping(path, "--study")
    _check_names(
        path,
        content,
        {
            "base": str,
            "keys": dict,
            "rows": dict,
            "reference": str,
            "split": str,
            "family": str,
            "failures": list,
            "seeds": list,
            "tables": dict,
        },
        optional={"keys", "failures"},
    )
    base = load_config(content["base"], content.get("keys", {})).as_dict()
    rows = {str(name): keys or {} for name, keys in content["rows"].items()}
    study = Study(
        path, base, rows, content["reference"], content["split"], content["family"], tuple(content.get("failures", ()))
    )
    _check_rows(study)
    tables = tuple(_table(study, str(name), table, content["seeds"]) for name, table in content["tables"].items())
    unused = set(rows) - {entry.row for table in tables for entry in table.entries}
    if unused:
        raise UserError(f"{path}: row {min(unused)} is in no table: add it to one, or remove it")
    return Study(**{**vars(study), "tables": tables})


def _in_order(tables: tuple[Table, ...]) -> Iterator[Run]:
    for table in tables:
        for seed in table.seeds:
            for entry in table.entries:
                yield Run(entry.row, seed)


def _check_names(where: object, values: object, kinds: Mapping[str, type], optional: set[str]) -> None:
    """Raises UserError unless `values` is a mapping with these names and kinds of values, and no other."""
    if not isinstance(values, dict):
        raise UserError(f"{where}: names with values are expected, not {values!r}")
    for name, value in values.items():
        if name not in kinds:
            raise UserError(f"{where}: unknown name {name!r}: it takes {', '.join(kinds)}")
        if type(value) is not kinds[name]:
            raise UserError(f"{where}: {name} must be a {kinds[name].__name__}, but is {value!r}")
    missing = [name for name in kinds if name not in values and name not in optional]
    if missing:
        raise UserError(f"{where}: {missing[0]} is missing")


def _check_rows(study: Study) -> None:
    known: dict[Config, str] = {}
    for name, keys in study.rows.items():
        where = f"{study.path}, row {name}"
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name):
            raise UserError(f"{where}: it becomes a directory: write it of a-z, 0-9, . and -")
        if not isinstance(keys, dict):
            raise UserError(f"{where}: keys of the configuration are expected, not {keys!r}")
        own = next((key for key in OWN_KEYS if key in keys), None)
        if own:
            raise UserError(f"{where}: {own} is set by the study: remove it")
        try:
            config = load_config(overrides={**study.base, **keys})
        except ConfigError as error:
            raise UserError(f"{where}: {error}") from error
        if config in known:
            raise UserError(f"{where}: it is the same configuration as row {known[config]}: keep one of them")
        known[config] = name
    for name in (study.reference, *study.failures):
        if name not in study.rows:
            raise UserError(f"{study.path}: there is no row {name!r}: rows are {', '.join(study.rows)}")
    if study.split not in study.base["eval_splits"]:
        raise UserError(f"{study.path}: split {study.split} is none of eval_splits: add it there")


def _table(study: Study, name: str, table: object, seeds: list) -> Table:
    where = f"{study.path}, table {name}"
    _check_names(where, table, {"title": str, "seeds": list, "rows": dict}, optional={"seeds"})
    seeds = table.get("seeds", seeds)
    if not seeds or any(type(seed) is not int or seed < 0 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise UserError(f"{where}: seeds must be different integers from 0, but are {seeds!r}")
    if name in study.rows:
        raise UserError(f"{where}: a row has the same name: --only could not tell them apart")
    entries = []
    for row, about in table["rows"].items():
        if row not in study.rows:
            raise UserError(f"{where}: there is no row {row!r}: rows are {', '.join(study.rows)}")
        _check_names(f"{where}, row {row}", about, {"label": str, "paper": dict}, optional={"paper"})
        paper = about.get("paper", {})
        _check_names(f"{where}, row {row}, paper", paper, dict.fromkeys(METRICS, float), optional=set(METRICS))
        entries.append(Entry(row, about["label"], paper))
    return Table(name, table["title"], tuple(seeds), tuple(entries))
