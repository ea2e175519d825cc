"""The configuration: default_config.yaml, a file over it, and overrides over both.

default_config.yaml is the only place where keys, types, defaults and help are written down; this module reads them
from there and refuses whatever does not fit.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import yaml

from coupalign.config_checks import combination_error
from coupalign.errors import UserError
from coupalign.files import REPOSITORY, atomic_path, find_file

DEFAULT_FILE = "default_config.yaml"
_LARGEST_INT = 2**31 - 1


class ConfigError(UserError):
    """A configuration that cannot be used; one line that names the key and the mend."""


@dataclass(frozen=True)
class Key:
    """One key of the configuration, as default_config.yaml declares it."""

    name: str
    default: Any
    help: str
    section: str

    @property
    def kind(self) -> str:
        """What a value has to be, in words."""
        if isinstance(self.default, tuple):
            return "a list of integers" if self.item is int else "a list of strings"
        return {bool: "true or false", int: "an integer", float: "a number", str: "a string"}[type(self.default)]

    @property
    def item(self) -> type:
        """What a list holds: int, or str, as in all lists that are empty by default."""
        return type(self.default[0]) if self.default else str


SECTIONS = {
    "run": ("device_target", "seed", "precision", "cpu_kernels", "output_dir"),
    "data": ("dataset", "data_dir", "vocab_file", "num_workers", "prefetch"),
    "training": (
        "train_split",
        "val_split",
        "train_sentences",
        "train_families",
        "batch_size",
        "accumulation_steps",
        "epochs",
        "learning_rate",
        "end_learning_rate",
        "decay_epochs",
        "decay_power",
        "warmup_steps",
        "weight_decay",
        "frozen",
        "learning_rate_scales",
        "weight_decays",
        "ema_decay",
        "recompute",
        "max_grad_norm",
        "max_skipped_steps",
        "init_checkpoint",
        "resume",
        "checkpoint_every",
        "keep_checkpoints",
        "tensorboard",
        "profile",
    ),
    "evaluation": (
        "eval_every",
        "eval_batch_size",
        "eval_splits",
        "eval_resolution",
        "eval_limit",
        "sentences",
        "threshold",
    ),
    "model": (
        "image_size",
        "max_tokens",
        "swin_embed_dim",
        "swin_depths",
        "swin_num_heads",
        "swin_window_size",
        "swin_bias_start",
        "swin_drop_path_rate",
        "bert_vocab_size",
        "bert_num_layers",
        "bert_hidden_size",
        "bert_num_heads",
        "bert_max_positions",
        "bert_dropout",
        "wpa_direction",
        "wpa_stages",
        "wpa_dim",
        "cross_attention_heads",
        "num_queries",
        "decoder_dim",
        "decoder_heads",
        "decoder_ffn_dim",
        "decoder_layers",
        "seg_head_dim",
        "batch_norm",
        "sma",
        "sma_temperature",
        "linear_init_std",
    ),
    "losses": ("aux_loss_weight", "aux_temperature", "aux_normalize", "aux_log"),
}


class Config:
    """Checked, immutable settings, by section: ``config.model.image_size``.

    Lists are tuples. Configurations compare by value, hash and pickle. Made by ``load_config``.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]):
        object.__setattr__(self, "_values", dict(values))

    def __getattr__(self, name: str) -> Any:
        if name not in SECTIONS:
            raise AttributeError(f"the configuration has no section {name!r}")
        return SimpleNamespace(**{key: self._values[key] for key in SECTIONS[name]})

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a configuration cannot be changed: load_config(overrides={{{name!r}: …}}) makes another")

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._values]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self._values == other._values

    def __hash__(self) -> int:
        return hash(tuple(self._values.items()))

    def __reduce__(self) -> tuple:
        return Config, (self._values,)

    def __repr__(self) -> str:
        return f"Config({self._values!r})"

    def as_dict(self) -> dict[str, Any]:
        """Keys and values in the order of default_config.yaml, of YAML's and JSON's own types."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in self._values.items()}

    def save(self, path: str | os.PathLike) -> None:
        """Writes all keys as YAML that ``load_config`` reads back, atomically."""
        with atomic_path(path) as temporary:
            text = yaml.safe_dump(self.as_dict(), sort_keys=False, allow_unicode=True, default_flow_style=None)
            temporary.write_text(text, encoding="utf-8")


def load_config(path: str | os.PathLike = DEFAULT_FILE, overrides: Mapping[str, Any] | None = None) -> Config:
    """The configuration of file `path` over default_config.yaml, and of `overrides` over both.

    Args:
        path: YAML file; relative to the working directory, or where nothing is there to the repository's root.
        overrides: values by key; a string is read as on a command line ("3e-5", "1,2,3", "[1, 2, 3]", "false").

    Raises:
        ConfigError: for a file that is missing or not a mapping, an unknown or repeated key, a value of
            another type, or values that do not go together.
    """
    keys = config_keys()
    values = {name: key.default for name, key in keys.items()}
    path = find_file(path)
    for name, value in read_mapping(path).items():
        values[name] = _checked(_known(name, f"{path}: "), value, f"{path}: ")
    for name, value in (overrides or {}).items():
        key = _known(name, "")
        values[name] = _checked(key, _from_text(key, value) if isinstance(value, str) else value, "")
    error = combination_error(values)
    if error:
        raise ConfigError(error)
    return Config(values)


@cache
def config_keys() -> dict[str, Key]:
    """All keys by name, in the order of default_config.yaml.

    There, ``## Title`` starts a section, and a key's help is the comment on its line, after the comments
    right above it.
    """
    path = REPOSITORY / DEFAULT_FILE
    defaults = read_mapping(path)
    keys, section, above = {}, "", []
    for line in path.read_text(encoding="utf-8").splitlines():
        declared = re.match(r"(\w+):.*?(?:\s# (.*))?$", line)
        if line.startswith("## "):
            section, above = line[3:], []
        elif line.startswith("# "):
            above.append(line[2:])
        elif declared:
            default = defaults[declared[1]]
            text = " ".join([*above, declared[2] or ""]).strip()
            keys[declared[1]] = Key(
                declared[1], tuple(default) if isinstance(default, list) else default, text, section
            )
            above = []
        else:
            above = []
    return keys


def _known(name: object, where: str) -> Key:
    keys = config_keys()
    if name not in keys:
        nearest = difflib.get_close_matches(str(name), keys, n=1, cutoff=0)[0]
        raise ConfigError(f"{where}unknown key {_short(name)}: did you mean {nearest}?")
    return keys[name]


def _checked(key: Key, value: Any, where: str) -> Any:
    """`value` in the type of `key`, or ConfigError."""
    if isinstance(key.default, tuple):
        if isinstance(value, (list, tuple)) and all(_fits(key.item, item) for item in value):
            return tuple(value)
    elif isinstance(key.default, float):
        number = _float(value)
        if number is not None:
            return number
    elif _fits(type(key.default), value):
        return value
    raise ConfigError(f"{where}{key.name} must be {key.kind}, but is {_short(value)}")


def _fits(kind: type, value: Any) -> bool:
    # type() and not isinstance: a bool is an int to isinstance.
    if type(value) is not kind:
        return False
    return not (kind is int and abs(value) > _LARGEST_INT) and not (kind is str and not value.isprintable())


def _float(value: Any) -> float | None:
    """A finite float, also from an int and from text such as 3e-5, which YAML takes for a string."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _from_text(key: Key, text: str) -> Any:
    """What `text` on a command line means for `key`; text that means nothing is returned for `_checked` to refuse."""
    if isinstance(key.default, (str, float)):
        return text
    if isinstance(key.default, tuple):
        inner = text.strip()
        inner = inner[1:-1] if inner[:1] == "[" and inner[-1:] == "]" else inner
        items = [item.strip().strip("'\"") for item in inner.split(",")] if inner.strip() else []
        return [_int(item) for item in items] if key.item is int else items
    if isinstance(key.default, bool):
        return {"true": True, "false": False}.get(text.strip().lower(), text)
    return _int(text)


def _int(text: str) -> int | str:
    return int(text) if re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", text) else text


class _StrictLoader(yaml.SafeLoader):
    """YAML without repeated keys, of which YAML itself silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [name.value for name, _ in node.value if isinstance(name, yaml.ScalarNode)]
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise yaml.constructor.ConstructorError(problem=f"key {_short(repeated)} is there twice: remove one")
        return super().construct_mapping(node, deep)


def read_mapping(path: str | os.PathLike, option: str = "--config") -> dict:
    """What a YAML file maps. Raises: ConfigError, which names the `option` that the path was given by."""
    try:
        with open(path, encoding="utf-8") as file:
            values = yaml.load(file, _StrictLoader)
    except FileNotFoundError:
        raise ConfigError(f"no configuration file {path}: check {option}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): check {option}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{path}{line}: not a YAML configuration: {' '.join(problem.split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: not a YAML configuration: lines of `key: value` are expected")
    return values


def _short(value: object) -> str:
    text = ascii(value) if not isinstance(value, str) or not value.isprintable() else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
