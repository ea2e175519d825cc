"""The plan of a study, read from its file: rows, which are configurations, and tables of rows."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coupalign.config import Config, ConfigError, load_config, read_mapping
from coupalign.errors import UserError
from coupalign.evaluation.metric import PRECISIONS
from coupalign.files import find_file

METRICS = ("oIoU", "mIoU", *(f"prec@0.{tenths}" for tenths in PRECISIONS))
OWN_KEYS = ("seed", "output_dir", "resume")  # the study sets these itself
_KINDS = {
    "base": str,
    "keys": dict,
    "rows": dict,
    "reference": str,
    "split": str,
    "family": str,
    "failures": list,
    "seeds": list,
    "tables": dict,
}


@dataclass(frozen=True)
class Entry:
    """A row of a table.

    Attributes:
        row: Name of the study's row.
        label: Its name in the table.
        paper: The paper's figures in per cent, by metric.
    """

    row: str
    label: str
    paper: Mapping[str, float]


@dataclass(frozen=True)
class Table:
    """A table of the report.

    Attributes:
        name: Its name on the command line.
        title: Its heading.
        seeds: The seeds of each row.
        entries: Its rows.
    """

    name: str
    title: str
    seeds: tuple[int, ...]
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Run:
    """One row trained with one seed."""

    row: str
    seed: int

    def __str__(self) -> str:
        return f"{self.row}/{self.seed}"


@dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
        path: Its file.
        base: All keys of the configuration that the rows start from.
        rows: The keys in which each row differs, by name.
        reference: Name of the row that the others are compared with.
        split: Split of the evaluation that the tables show.
        family: Family of expressions that the tables show; "" is all.
        failures: Names of the rows in the table of failures.
        tables: The tables, in the order of work.
    """

    path: Path
    base: dict[str, Any]
    rows: dict[str, dict[str, Any]]
    reference: str
    split: str
    family: str
    failures: tuple[str, ...]
    tables: tuple[Table, ...]

    def runs(self, only: str = "") -> list[Run]:
        """Every run once: table by table, and within a table seed by seed.

        Args:
            only: Name of a table, a row, or row/seed; "" is all.

        Raises:
            UserError: `only` names nothing.
        """
        tables = [table for table in self.tables if table.name == only] or self.tables
        every = [Run(entry.row, seed) for table in tables for seed in table.seeds for entry in table.entries]
        runs = list(dict.fromkeys(every))
        if only and tables is self.tables:
            runs = [run for run in runs if only in (run.row, str(run))]
        if not runs:
            raise UserError(
                f"{self.path}: no table, row or row/seed {only!r}; tables: "
                f"{', '.join(table.name for table in self.tables)}; rows: {', '.join(self.rows)}"
            )
        return runs

    def config(self, run: Run, output_dir: str | os.PathLike, base: Mapping[str, Any] | None = None) -> Config:
        """The configuration of a run.

        Args:
            run: The run.
            output_dir: Directory of the study.
            base: Keys that the row starts from, if not the study's own.
        """
        directory = str(Path(output_dir, run.row, str(run.seed)))
        own = {"seed": run.seed, "resume": "auto", "output_dir": directory}
        return load_config(overrides={**(base or self.base), **self.rows[run.row], **own})


def read_study(path: str | os.PathLike) -> Study:
    """Reads a study file; docs/study.md describes the format.

    Raises:
        UserError: the file is missing or something in it is wrong.
    """
    path = find_file(path)
    content = read_mapping(path, "--study")
    _check(path, content, _KINDS, optional={"keys", "failures"})
    base = load_config(content["base"], content.get("keys", {})).as_dict()
    rows = {str(name): keys or {} for name, keys in content["rows"].items()}
    for name, keys in rows.items():
        _check_row(f"{path}, row {name}", name, keys, base)
    for name in (content["reference"], *content.get("failures", ())):
        _check_known(path, name, rows)
    if content["split"] not in base["eval_splits"]:
        raise UserError(f"{path}: split {content['split']} is not among eval_splits: add it there")
    tables = tuple(_table(path, str(name), table, content["seeds"], rows) for name, table in content["tables"].items())
    names = content["reference"], content["split"], content["family"], tuple(content.get("failures", ()))
    return Study(path, base, rows, *names, tables)


def _check(where: object, values: object, kinds: Mapping[str, type], optional: set[str]) -> None:
    """Raises UserError unless `values` is a mapping with these names and types."""
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected names with values, but found {values!r}")
    for name, value in values.items():
        if name not in kinds:
            raise UserError(f"{where}: unknown name {name!r}; allowed names: {', '.join(kinds)}")
        if type(value) is not kinds[name]:
            raise UserError(f"{where}: {name} must be a {kinds[name].__name__}, but is {value!r}")
    missing = [name for name in kinds if name not in values and name not in optional]
    if missing:
        raise UserError(f"{where}: {missing[0]} is missing")


def _check_row(where: str, name: str, keys: object, base: Mapping[str, Any]) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name):
        raise UserError(f"{where}: a row's name becomes a directory: use a-z, 0-9, . and -")
    if not isinstance(keys, dict):
        raise UserError(f"{where}: expected keys of the configuration, but found {keys!r}")
    own = next((key for key in OWN_KEYS if key in keys), None)
    if own:
        raise UserError(f"{where}: the study sets {own} itself: remove it")
    try:
        load_config(overrides={**base, **keys})
    except ConfigError as error:
        raise UserError(f"{where}: {error}") from error


def _check_known(where: object, name: str, rows: Mapping[str, object]) -> None:
    if name not in rows:
        raise UserError(f"{where}: there is no row {name!r}; rows: {', '.join(rows)}")


def _table(path: Path, name: str, table: object, seeds: list, rows: Mapping[str, object]) -> Table:
    where = f"{path}, table {name}"
    _check(where, table, {"title": str, "seeds": list, "rows": dict}, optional={"seeds"})
    seeds = table.get("seeds", seeds)
    if not seeds or any(type(seed) is not int or seed < 0 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise UserError(f"{where}: seeds must be different integers from 0, but are {seeds!r}")
    if name in rows:
        raise UserError(f"{where}: a row has the same name, and --only could mean either: rename one of them")
    entries = []
    for row, about in table["rows"].items():
        _check_known(where, row, rows)
        _check(f"{where}, row {row}", about, {"label": str, "paper": dict}, optional={"paper"})
        paper = about.get("paper", {})
        _check(f"{where}, row {row}, paper", paper, dict.fromkeys(METRICS, float), optional=set(METRICS))
        entries.append(Entry(row, about["label"], paper))
    return Table(name, table["title"], tuple(seeds), tuple(entries))
