"""The plan of a study, read from its file: rows, which are configurations, and tables of rows."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from coupalign.config import Config, ConfigError, load_config, read_mapping
from coupalign.errors import UserError
from coupalign.evaluation.result import COLUMNS
from coupalign.files import find_file

OWN_KEYS = ("seed", "output_dir", "resume")  # the study sets these itself
_STUDY = {"base": str, "keys": dict, "rows": dict, "reference": str, "split": str, "family": str}
_STUDY |= {"seeds": list, "tables": dict}
_TABLE = {"title": str, "seeds": list, "rows": dict}
_ENTRY = {"label": str, "paper": dict}


class Run(NamedTuple):
    """One row trained with one seed."""

    row: str
    seed: int

    def __str__(self) -> str:
        return f"{self.row}/{self.seed}"


@dataclass(frozen=True)
class Study:
    """A study. Its `tables` are in the order of work; docs/study.md describes the format of their content."""

    path: Path
    base: dict[str, Any]  # all keys of the configuration that the rows start from
    rows: dict[str, dict[str, Any]]  # the keys in which each row differs, by name
    reference: str  # row that the others are compared with
    split: str  # shown in the tables
    family: str  # of expressions shown in the tables; "" is all
    tables: dict[str, dict[str, Any]]

    def runs(self, only: str = "") -> list[Run]:
        """Every run of a table, row or row/seed ("" is all) once: table by table, and within a table seed by seed.

        Raises: UserError if `only` names nothing.
        """
        tables = [self.tables[only]] if only in self.tables else self.tables.values()
        every = [Run(row, seed) for table in tables for seed in table["seeds"] for row in table["rows"]]
        runs = [run for run in dict.fromkeys(every) if only in ("", *self.tables, run.row, str(run))]
        if not runs:
            names = f"tables: {', '.join(self.tables)}; rows: {', '.join(self.rows)}"
            raise UserError(f"{self.path}: no table, row or row/seed {only!r}; {names}")
        return runs

    def config(self, run: Run, output_dir: str | os.PathLike, base: Mapping[str, Any] | None = None) -> Config:
        """The configuration of a run in the study's directory `output_dir`, over `base` if not over the study's own."""
        own = {"seed": run.seed, "resume": "auto", "output_dir": str(Path(output_dir, run.row, str(run.seed)))}
        return load_config(overrides={**(base or self.base), **self.rows[run.row], **own})


def read_study(path: str | os.PathLike) -> Study:
    """Reads a study file; docs/study.md describes the format. Raises: UserError if something in it is wrong."""
    path = find_file(path)
    content = {"keys": {}, **read_mapping(path, "--study")}
    _check(path, content, _STUDY)
    base = load_config(content["base"], content["keys"]).as_dict()
    rows = {str(name): keys or {} for name, keys in content["rows"].items()}
    for name, keys in rows.items():
        where = f"{path}, row {name}"
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
    if content["split"] not in base["eval_splits"]:
        raise UserError(f"{path}: split {content['split']} is not among eval_splits: add it there")
    _check_rows(path, [content["reference"]], rows)
    tables = {}
    for name, table in content["tables"].items():
        where = f"{path}, table {name}"
        _check(where, table, _TABLE, optional={"seeds"})
        seeds = table.get("seeds", content["seeds"])
        if not seeds or any(type(seed) is not int or seed < 0 for seed in seeds) or len(set(seeds)) < len(seeds):
            raise UserError(f"{where}: seeds must be different integers from 0, but are {seeds!r}")
        if name in rows:
            raise UserError(f"{where}: a row has the same name, and --only could mean either: rename one of them")
        _check_rows(where, table["rows"], rows)
        for row, entry in table["rows"].items():
            _check(f"{where}, row {row}", entry, _ENTRY, optional={"paper"})
            _check(f"{where}, row {row}, paper", entry.get("paper", {}), dict.fromkeys(COLUMNS, float), set(COLUMNS))
        entries = {row: {"paper": {}, **entry} for row, entry in table["rows"].items()}
        tables[str(name)] = {"title": table["title"], "seeds": seeds, "rows": entries}
    return Study(path, base, rows, content["reference"], content["split"], content["family"], tables)


def _check(where: object, values: object, kinds: Mapping[str, type], optional: Set[str] = frozenset()) -> None:
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


def _check_rows(where: object, names, rows: Mapping[str, object]) -> None:
    for name in names:
        if name not in rows:
            raise UserError(f"{where}: there is no row {name!r}; rows: {', '.join(rows)}")
