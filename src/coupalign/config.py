"""The configuration: default_config.yaml, then a file, then overrides.

``config_sections`` declares the keys and their types, default_config.yaml their values and help texts.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from coupalign.config_sections import DataConfig, EvaluationConfig, LossConfig, ModelConfig, RunConfig, TrainingConfig
from coupalign.errors import ConfigError
from coupalign.files import REPOSITORY, find_file, write_text

Paths = Union[str, os.PathLike, Sequence[Union[str, os.PathLike]], None]  # evaluated by Python 3.9 too
DEFAULT_FILE = REPOSITORY / "default_config.yaml"


@dataclass(frozen=True)
class Config:
    """Checked, immutable settings by section: ``config.model.image_size``. Lists are tuples. See ``load_config``."""

    run: RunConfig
    data: DataConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    model: ModelConfig
    losses: LossConfig

    def __post_init__(self) -> None:
        if self.losses.object_loss_weight and not self.model.sma:
            raise ConfigError("object_loss_weight needs mask proposals, sma is false: set object_loss_weight to 0")

    def data_sets(self) -> list[Config]:
        """One configuration per data set of ``data_dir``; this one if there is only one."""
        if len(self.data.names) == 1:
            return [self]
        pairs = zip(self.data.names, self.data.directories)
        return [
            replace(self, data=replace(self.data, dataset=name, data_dir=directory, data_weights=()))
            for name, directory in pairs
        ]

    def as_dict(self) -> dict[str, Any]:
        """Flat keys and values in the order of default_config.yaml, in the types of YAML and JSON."""
        values = {name: getattr(getattr(self, key.section), name) for name, key in config_keys().items()}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def save(self, path: str | os.PathLike) -> None:
        """Writes all keys as YAML that ``load_config`` reads back, atomically."""
        write_text(path, yaml.safe_dump(self.as_dict(), sort_keys=False, allow_unicode=True, default_flow_style=None))


@dataclass(frozen=True)
class Key:
    """One key of the configuration."""

    name: str
    section: str  # field of Config that holds it
    type: Any
    may_change: bool  # when a training is resumed
    default: Any
    help: str  # comment in default_config.yaml, above the key or beside it
    title: str  # the ``## Title`` in default_config.yaml above it

    @property
    def expected(self) -> str:
        """Accepted values in words."""
        items = get_args(self.type)
        if get_origin(self.type) is Literal:
            return f"{', '.join(items[:-1])} or {items[-1]}"
        if get_origin(self.type) is tuple:
            return f"{'a list' if ... in items else f'a list of {len(items)} items'}, each {items[0].__doc__}"
        if get_origin(self.type) is Union:
            return f"{items[0].__doc__}, or a list of these"
        return "true or false" if self.type is bool else self.type.__doc__

    def parse(self, value: Any, where: str = "") -> Any:
        """The typed value of what YAML or a command line holds. Raises: ConfigError, starting with `where`."""
        given = value
        is_list = get_origin(self.type) is tuple or (get_origin(self.type) is Union and "," in str(value))
        if is_list and isinstance(value, str):
            text = re.sub(r"^\[(.*)\]$", r"\1", value.strip())
            value = [item.strip(" '\"") for item in text.split(",")] if text.strip() else []
        try:
            parsed = _parser().parse_object({self.name: value}, defaults=False)[self.name]
        except ArgumentError:
            parsed = None
        if parsed is None or (parsed == () and get_origin(self.type) is Union):
            raise ConfigError(f"{where}{self.name} is {_short(given)}: expected {self.expected}")
        plain = _plain(parsed)
        if get_origin(self.type) is Union and isinstance(plain, tuple):  # a list of one is that one
            plain = tuple(map(os.path.expanduser, plain)) if len(plain) > 1 else plain[0]
        return os.path.expanduser(plain) if isinstance(plain, str) else plain


def load_config(path: Paths = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """The configuration of file `path` over default_config.yaml, and of `overrides` over both.

    Args:
        path: YAML file of flat keys, found by ``find_file``, or several, each over the ones before it. None is
            default_config.yaml alone.
        overrides: Values by key; text is read as on a command line ("3e-5", "1,2,3", "[1, 2, 3]", "false").

    Raises:
        ConfigError: For a file that is missing or not a mapping, an unknown or repeated key, a value of
            another type or out of range, or values that contradict each other.
    """
    values = {name: key.default for name, key in config_keys().items()}
    paths = [path] if isinstance(path, (str, os.PathLike)) else path or []
    layers = [(f"{file}: ", read_mapping(file)) for file in map(find_file, paths)]
    for where, layer in [*layers, ("", overrides or {})]:
        for name in layer:
            if name not in values:
                nearest = difflib.get_close_matches(str(name), values, n=1, cutoff=0)[0]
                raise ConfigError(f"{where}unknown key {_short(name)}: did you mean {nearest}?")
        values |= {name: config_keys()[name].parse(value, where) for name, value in layer.items()}
    sections, problems = {}, []
    for name, section in get_type_hints(Config).items():
        try:
            sections[name] = section(**{each.name: values[each.name] for each in fields(section)})
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("; ".join(problems))
    return Config(**sections)


def load_inference_config(path: Paths = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Like `load_config`, for a trained model: on a CPU float32 replaces the precision of the training.

    The precision is only kept if `overrides` has it. A warning names the change.
    """
    overrides = overrides or {}
    config = load_config(path, {**overrides, "precision": "fp32"})
    if config.run.device_target != "CPU" or "precision" in overrides:
        return load_config(path, overrides)
    trained = load_config(path, {**overrides, "device_target": "Ascend"}).run.precision
    if trained != "fp32":
        logging.getLogger(__name__).warning("trained with precision %s, computing in fp32 on the CPU", trained)
    return config


@cache
def config_keys() -> dict[str, Key]:
    """All keys by name, in the order of default_config.yaml."""
    declared = {
        each.name: (name, get_type_hints(section)[each.name], each.metadata.get("may_change", False))
        for name, section in get_type_hints(Config).items()
        for each in fields(section)
    }
    defaults = read_mapping(DEFAULT_FILE)
    keys: dict[str, Key] = {}
    title, comments = "", []
    for line in DEFAULT_FILE.read_text(encoding="utf-8").splitlines():
        match = re.match(r"(\w+):.*?(?:\s# (.*))?$", line)
        if line.startswith("## "):
            title = line[3:]
        elif line.startswith("# "):
            comments.append(line[2:])
            continue
        elif match:
            name, comment = match.groups(default="")
            default = tuple(defaults[name]) if isinstance(defaults[name], list) else defaults[name]
            keys[name] = Key(name, *declared[name], default, " ".join([*comments, comment]).strip(), title)
        comments = []
    return keys


@cache
def _parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    for key in config_keys().values():
        parser.add_argument(f"--{key.name}", type=key.type)
    return parser


def _plain(value: Any) -> Any:
    """`value` without jsonargparse's subclasses of int, float and str."""
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return next(kind for kind in (bool, int, float, str) if isinstance(value, kind))(value)


class _StrictLoader(yaml.SafeLoader):
    """YAML that refuses repeated keys; YAML itself silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [name.value for name, _ in node.value if isinstance(name, yaml.ScalarNode)]
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise yaml.constructor.ConstructorError(problem=f"key {_short(repeated)} is there twice: remove one")
        return super().construct_mapping(node, deep)


def read_mapping(path: str | os.PathLike, option: str = "--config") -> dict:
    """The mapping in a YAML file. Raises: ConfigError, which names the `option` that gave the path."""
    try:
        with open(path, encoding="utf-8") as file:
            values = yaml.load(file, _StrictLoader)
    except OSError as error:
        raise ConfigError(f"no configuration file {path} ({error.strerror}): check {option}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{path}{line}: not a YAML configuration: {' '.join(problem.split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: not a YAML configuration: expected lines of `key: value`")
    return values


def _short(value: object) -> str:
    text = ascii(value) if not isinstance(value, str) or not value.isprintable() else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
