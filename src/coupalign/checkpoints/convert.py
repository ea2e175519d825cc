"""Converts pretrained encoders, or CoupAlign at another size, to a checkpoint that a training starts from."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from mindspore import Tensor
from mindspore.nn.utils import no_init_parameters

from coupalign.checkpoints.fit import fit
from coupalign.checkpoints.loading import CONVERTED, MODEL_PREFIXES, first_few, save_weights
from coupalign.checkpoints.naming import Naming, bert_naming, own_naming, swin_naming
from coupalign.checkpoints.report import Report, Taken
from coupalign.checkpoints.source import Source, read_own_checkpoint, read_weights
from coupalign.config import Config
from coupalign.errors import UserError
from coupalign.files import atomic_path, find_file
from coupalign.model import build_model

_SWIN_KEYS = "set swin_embed_dim, swin_depths and swin_num_heads to those of this Swin, or choose another file"
_BERT_KEYS = (
    "set bert_hidden_size, bert_num_layers, bert_max_positions and bert_vocab_size to those of this BERT, or choose "
    "another file"
)
_OWN_KEYS = (
    "pass its config.yaml with --config; only image_size, swin_window_size and a lower bert_max_positions may differ"
)


def convert(
    config: Config,
    output: str | os.PathLike,
    *,
    swin: str | os.PathLike | None = None,
    bert: str | os.PathLike | None = None,
    checkpoint: str | os.PathLike | None = None,
) -> Report:
    """Writes a checkpoint for ``init_checkpoint`` and, beside it, ``<output>.report.txt``.

    Args:
        config: Configuration of the model that will start from the checkpoint.
        output: The .ckpt file to write.
        swin: PyTorch or safetensors file of a Swin with the names of the official code, timm or Hugging Face.
        bert: PyTorch or safetensors file of a BERT with the names of Hugging Face.
        checkpoint: Instead of both, a checkpoint of CoupAlign trained with another image_size or window.

    Returns:
        What became of every tensor.

    Raises:
        UserError: If a file cannot be read or does not fit, a tensor has no known use, or a parameter of an encoder
            has no tensor. Nothing is written then.
    """
    output = Path(output).expanduser()
    if output.suffix != ".ckpt":
        raise UserError(f"--output {output} must end in .ckpt")
    if checkpoint and (swin or bert):
        raise UserError("--checkpoint is a whole model: give either --checkpoint, or --swin and --bert")
    if not (checkpoint or swin or bert):
        raise UserError("nothing to convert: give --swin, --bert or both, or --checkpoint")
    for path in (checkpoint, swin, bert):
        if path and output.exists() and find_file(path).exists() and output.samefile(find_file(path)):
            raise UserError(f"--output {output} is the file to convert: choose another")
    with no_init_parameters():
        shapes = {name: tuple(parameter.shape) for name, parameter in build_model(config).parameters_dict().items()}

    values: dict[str, np.ndarray] = {}
    taken = []
    if checkpoint:
        taken.append(take(read_own_checkpoint(checkpoint), own_naming(MODEL_PREFIXES), "", shapes, values, _OWN_KEYS))
    if swin:
        source = read_weights(swin)
        naming = swin_naming(source.tensors) or _refuse_names(source, "Swin")
        taken.append(take(source, naming, "image_encoder.", shapes, values, _SWIN_KEYS))
    if bert:
        source = read_weights(bert)
        naming = bert_naming(source.tensors, config.model.bert_num_layers) or _refuse_names(source, "BERT")
        taken.append(take(source, naming, "text_encoder.", shapes, values, _BERT_KEYS))

    report = Report(output, taken, shapes)
    weights = {name: Tensor(values[name]) for name in shapes if name in values}
    if not checkpoint:
        weights[CONVERTED] = Tensor(np.array([1], np.int32))
    with atomic_path(report.file) as report_path:
        report_path.write_text(report.text(), encoding="utf-8")
        save_weights(output, weights)
    return report


def take(
    source: Source,
    naming: Naming,
    prefix: str,
    shapes: dict[str, tuple[int, ...]],
    values: dict[str, np.ndarray],
    remedy: str,
) -> Taken:
    """Adds all parameters whose names start with ``prefix`` to ``values``, as float32.

    Args:
        source: The file.
        naming: Names of its tensors.
        prefix: Prefix of the encoder in the model.
        shapes: Shapes of all parameters of the model.
        values: Values by parameter name, to be added to.
        remedy: Advice for a file that does not fit.

    Raises:
        UserError: As ``convert``.
    """
    wanted = {name: naming.sources(name.removeprefix(prefix)) for name in shapes if name.startswith(prefix)}
    used = {tensor for tensors in wanted.values() for tensor in tensors}
    ignored = {tensor: naming.reason(tensor) or "" for tensor in source.tensors if tensor not in used}
    lacking = [tensor for tensor in used if tensor not in source.tensors]
    if lacking and {tensor for name in ("norm.gamma", "norm.beta") for tensor in naming.sources(name)} == set(lacking):
        raise UserError(
            f"{source.path} lacks the final norm {first_few(sorted(lacking))}, as backbones of detection and "
            "segmentation models do: choose the ImageNet checkpoint of this Swin"
        )
    if lacking:
        raise UserError(f"{source.path} lacks {first_few(sorted(lacking))}: {remedy}")
    unknown = [tensor for tensor, reason in ignored.items() if not reason]
    if unknown:
        raise UserError(f"{source.path} has {first_few(unknown)}, which the model has no parameter for: {remedy}")
    taken = Taken(source, naming, ignored=ignored)
    for name, tensors in wanted.items():
        shape = (shapes[name][0] // len(tensors), *shapes[name][1:])
        parts = []
        for tensor in tensors:
            part = source.tensors[tensor]
            fitted = fit(name, part, shape)
            if fitted is None:
                raise UserError(f"{source.path} has {tensor} {part.shape}, which does not fit {shape}: {remedy}")
            if part.dtype.kind != "f" or not np.isfinite(fitted[0]).all():
                raise UserError(f"{source.path} has values in {tensor} that are not finite floats: download it again")
            parts.append(fitted[0].astype(np.float32))
            taken.used[tensor] = name, fitted[1]
        values[name] = np.concatenate(parts)
    return taken


def _refuse_names(source: Source, kind: str) -> Naming:
    raise UserError(
        f"{source.path} has no known names of a {kind}, but {first_few(source.tensors)}: give --{kind.lower()} a {kind} "
        "file"
    )
