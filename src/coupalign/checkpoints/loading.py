"""A checkpoint into a model, checked name by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import mindspore
from mindspore import nn

from coupalign.errors import UserError
from coupalign.files import find_file

# First parts of the names of all parameters a model can have. Anything else in a checkpoint, such as the state of the
# optimiser, is none of the model's; under these, a name that the model lacks means another configuration.
MODEL_PREFIXES = frozenset(
    {"image_encoder", "text_encoder", "wpa", "cross_attention", "mask_generator", "seg_head", "sma", "mask_proj"}
)
# Name of a parameter that is in a checkpoint of convert_weights.py and in no other.
CONVERTED = "converted_encoders"
_OTHER_CONFIGURATION = "it was made with another configuration: pass its config.yaml with --config"
_CONVERT_AGAIN = "it was converted for another configuration: run convert_weights.py with this one"


def find_checkpoint(path: str | os.PathLike) -> Path:
    """The file that `path` means, unopened. Raises UserError where it is missing, or by its name another kind."""
    path = find_file(path)
    if not path.is_file():
        raise UserError(f"no checkpoint {path}: check the path (train.py writes them to output_dir)")
    if not os.access(path, os.R_OK):
        raise UserError(f"checkpoint {path} cannot be read: check its permissions")
    if path.suffix != ".ckpt":
        raise UserError(f"{path} is not a MindSpore checkpoint (.ckpt): convert_weights.py makes one of PyTorch's")
    return path


def read_checkpoint(path: str | os.PathLike) -> dict[str, mindspore.Parameter]:
    """All parameters of a checkpoint file by name. Raises UserError where there is no file or no checkpoint in it."""
    path = find_checkpoint(path)
    try:
        return mindspore.load_checkpoint(str(path))
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{path} is not a MindSpore checkpoint, or a broken one: copy or make it again") from error


def load_checkpoint(path: str | os.PathLike, model: nn.Cell) -> None:
    """Sets every parameter of `model` from the checkpoint, in the model's precision.

    Raises:
        UserError: where the file is missing or broken, holds encoders only, or parameters are missing, unexpected or
            of other shapes. The model is then as it was. What a checkpoint holds outside the model's rooms is ignored.
    """
    saved = read_checkpoint(path)
    if CONVERTED in saved:
        raise UserError(
            f"{path} holds encoders to start from, not a trained model: train it first, with train.py "
            f"--init_checkpoint {path}"
        )
    _set(path, saved, model.parameters_dict(), _OTHER_CONFIGURATION)


def start_from(path: str | os.PathLike, model: nn.Cell) -> str:
    """Sets the parameters a training starts from: all of them, or of a converted checkpoint the encoders it holds.

    An encoder is loaded whole or, where the file has none of it, left at random with the rest of the model.

    Returns: a line that says what was loaded and what starts at random.

    Raises: UserError as load_checkpoint does.
    """
    saved = read_checkpoint(path)
    wanted = model.parameters_dict()
    if CONVERTED not in saved:
        _set(path, saved, wanted, _OTHER_CONFIGURATION)
        return f"starting from {path}: all {len(wanted)} parameters loaded"
    held = {name.split(".")[0] for name in saved}
    loaded = {name: parameter for name, parameter in wanted.items() if name.split(".")[0] in held}
    _set(path, saved, loaded, _CONVERT_AGAIN)
    random = dict.fromkeys(name.split(".")[0] for name in wanted if name not in loaded)
    return (
        f"starting from {path}: {len(loaded)} of {len(wanted)} parameters loaded, at random start {', '.join(random)}"
    )


def _set(
    path: str | os.PathLike, saved: dict[str, mindspore.Parameter], wanted: dict[str, mindspore.Parameter], mend: str
) -> None:
    """Sets the parameters `wanted`, which must be all that is saved in the model's rooms, or none of them."""
    _refuse(path, "lacks", [name for name in wanted if name not in saved], mend)
    _refuse(
        path,
        "has in excess",
        [name for name in saved if name not in wanted and name.split(".")[0] in MODEL_PREFIXES],
        mend,
    )
    _refuse(
        path,
        "has in another shape",
        [
            f"{name} {tuple(saved[name].shape)} instead of {tuple(parameter.shape)}"
            for name, parameter in wanted.items()
            if tuple(saved[name].shape) != tuple(parameter.shape)
        ],
        mend,
    )
    for name, parameter in wanted.items():
        parameter.set_data(mindspore.Tensor(saved[name].asnumpy(), parameter.dtype))


def _refuse(path: str | os.PathLike, what: str, names: Sequence[str], mend: str) -> None:
    if names:
        raise UserError(f"checkpoint {path} {what} {few(names)}: {mend}")


def few(names: Sequence[str]) -> str:
    """Names for a message of one line: the first three, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
