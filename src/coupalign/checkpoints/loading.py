"""Checkpoints of weights: reading, loading into a model with every name checked, writing."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import mindspore
from google.protobuf.message import DecodeError
from mindspore import Parameter, Tensor, nn

from coupalign.checkpoints.ckpt_file import read_ckpt
from coupalign.checkpoints.safetensors_file import read_safetensors, write_safetensors
from coupalign.errors import UserError
from coupalign.files import SAFETENSORS, atomic_path, find_checkpoint

# First parts of the names of all parameters that a model can have. Other names in a checkpoint, such as the state of
# an optimizer, are ignored. A name with one of these prefixes that the model lacks means another configuration.
MODEL_PREFIXES = frozenset(
    {
        "image_encoder",
        "text_encoder",
        "wpa",
        "cross_attention",
        "mask_generator",
        "seg_head",
        "sma",
        "mask_proj",
        "existence",
    }
)
# A parameter that only checkpoints of convert_weights.py have.
CONVERTED = "converted_encoders"
_OTHER_CONFIGURATION = "it was made with another configuration: pass its config.yaml with --config, before other files"
_CONVERT_AGAIN = "it was converted for another configuration: run convert_weights.py with this one"


def read_checkpoint(path: str | os.PathLike) -> dict[str, Parameter]:
    """All parameters of a .ckpt or .safetensors file by name.

    Raises: UserError if it is missing, incomplete or another file.
    """
    path = find_checkpoint(path)
    if path.suffix == SAFETENSORS:
        tensors = read_safetensors(path)
        if not any(_module(name) in MODEL_PREFIXES for name in tensors):
            remedy = "convert pretrained encoders with convert_weights.py --swin or --bert"
            raise UserError(f"{path} has no parameters of CoupAlign, but {first_few(tensors)}: {remedy}")
        return {name: Parameter(Tensor(each), name=name) for name, each in tensors.items()}
    try:
        return read_ckpt(path)
    except (ValueError, TypeError, RuntimeError, DecodeError) as error:
        raise UserError(f"{path} is not a MindSpore checkpoint, or is damaged: copy or make it again") from error


def save_weights(path: str | os.PathLike, weights: Mapping[str, Parameter | Tensor]) -> None:
    """Writes weights by name atomically: safetensors if the name of the file says so, else MindSpore's format.

    Raises: UserError if that fails.
    """
    with atomic_path(path) as temporary:
        if temporary.suffix == SAFETENSORS:
            return write_safetensors(temporary, {name: value.asnumpy() for name, value in weights.items()})
        mindspore.save_checkpoint([{"name": name, "data": value} for name, value in weights.items()], str(temporary))


def load_checkpoint(path: str | os.PathLike, model: nn.Cell) -> None:
    """Sets every parameter of ``model`` from a checkpoint, in the dtype of the model.

    Raises: UserError if the file is missing or damaged, holds encoders only, or does not fit; the model is unchanged.
    """
    saved = read_checkpoint(path)
    if CONVERTED in saved:
        remedy = f"train it first with train.py --init_checkpoint {path}"
        raise UserError(f"{path} holds pretrained encoders, not a trained model: {remedy}")
    set_parameters(path, saved, model.parameters_dict(), _OTHER_CONFIGURATION)


def start_from(path: str | os.PathLike, model: nn.Cell, excluded: Sequence[str] = ()) -> str:
    """Sets the initial parameters of a training: all, or the encoders that a converted checkpoint holds.

    An encoder is loaded completely or, if a converted checkpoint has none of it, keeps its initial weights. Parameters
    of the model whose names match a pattern in `excluded` keep theirs, and those of the file are ignored. Returns a
    line that says so.

    Raises: UserError as ``load_checkpoint``, except that converted checkpoints are accepted, or for a pattern that
        matches no parameter of either.
    """
    saved = read_checkpoint(path)
    wanted = model.parameters_dict()
    names = [*{**wanted, **saved}]
    kept = {name for pattern in excluded for name in matching_names("init_except", pattern, names)}
    saved = {name: value for name, value in saved.items() if name not in kept}
    is_converted, modules = CONVERTED in saved, set(map(_module, saved))
    loaded = {
        name: parameter
        for name, parameter in wanted.items()
        if name not in kept and (_module(name) in modules or not is_converted)
    }
    remedy = _CONVERT_AGAIN if is_converted else _OTHER_CONFIGURATION
    rounded = any(saved[name].dtype == mindspore.float16 for name in loaded if name in saved)
    precision = ", saved in float16" if rounded else ""
    set_parameters(path, saved, loaded, f"{remedy}, or leave these parameters out with init_except")
    if len(loaded) == len(wanted):
        return f"starting from {path}: all {len(wanted)} parameters loaded{precision}"
    others = ", ".join(dict.fromkeys(_module(name) for name in wanted if name not in loaded))
    return (
        f"starting from {path}: {len(loaded)} of {len(wanted)} parameters loaded{precision}, random weights in {others}"
    )


def matching_names(key: str, pattern: str, names: Sequence[str], kind: str = "parameter") -> list[str]:
    """The names of a `kind` that match a pattern (``*``, ``?``, ``[…]``) of configuration `key`.

    Raises: UserError if none does.
    """
    matching = [name for name in names if fnmatchcase(name, pattern)]
    if not matching:
        closest = difflib.get_close_matches(pattern, names, n=1, cutoff=0)[0]
        raise UserError(f"{key}: pattern {pattern!r} matches no {kind} (closest: {closest}): correct it")
    return matching


def set_parameters(
    path: str | os.PathLike, saved: dict[str, Parameter], wanted: Mapping[str, Parameter], remedy: str
) -> None:
    """Sets the parameters ``wanted``, which must be exactly those saved under ``MODEL_PREFIXES``; all or nothing.

    Those that are set are removed from `saved`.
    """
    shapes = [
        f"{name} {tuple(saved[name].shape)} instead of {tuple(parameter.shape)}"
        for name, parameter in wanted.items()
        if name in saved and saved[name].shape != parameter.shape
    ]
    for problem, names in (
        ("lacks", [name for name in wanted if name not in saved]),
        ("has unexpected", [name for name in saved if name not in wanted and _module(name) in MODEL_PREFIXES]),
        ("has another shape of", shapes),
    ):
        if names:
            raise UserError(f"checkpoint {path} {problem} {first_few(names)}: {remedy}")
    for name, parameter in wanted.items():
        value = saved.pop(name)  # becomes the parameter's data, without a copy
        parameter.set_data(value if value.dtype == parameter.dtype else Tensor(value.asnumpy(), parameter.dtype))


def _module(name: str) -> str:
    return name.split(".")[0]


def first_few(names: Iterable[str]) -> str:
    """The first three names and the number of the others, for a message of one line."""
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
