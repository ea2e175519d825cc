"""Checkpoints of the encoders, or of CoupAlign at another size, as one that a training starts from."""

from __future__ import annotations

import os
from pathlib import Path

import mindspore
import numpy as np
from mindspore import Tensor
from mindspore.nn.utils import no_init_parameters

from coupalign.checkpoints.fit import fit
from coupalign.checkpoints.loading import CONVERTED, MODEL_PREFIXES, few
from coupalign.checkpoints.naming import Naming, bert_naming, own_naming, swin_naming
from coupalign.checkpoints.report import Report, Taken
from coupalign.checkpoints.source import Source, read_own_checkpoint, read_weights
from coupalign.config import Config
from coupalign.errors import UserError
from coupalign.files import atomic_path, find_file
from coupalign.model import build_model

_SWIN_KEYS = "set swin_embed_dim, swin_depths and swin_num_heads as this Swin has them, or give another file"
_BERT_KEYS = (
    "set bert_hidden_size, bert_num_layers, bert_max_positions and bert_vocab_size as this BERT has them, or "
    "give another file"
)
_OWN_KEYS = "pass its own config.yaml with --config; only image_size, swin_window_size and a lower bert_max_positions may differ"


def convert(
    config: Config,
    output: str | os.PathLike,
    *,
    swin: str | os.PathLike | None = None,
    bert: str | os.PathLike | None = None,
    checkpoint: str | os.PathLike | None = None,
) -> Report:
    """Writes a checkpoint for ``init_checkpoint``, and beside it ``<output>.report.txt``.

    Args:
        config: of the model that will start from it.
        output: the .ckpt to write.
        swin: Swin in the official, timm's or Hugging Face's names, a file of PyTorch's or of safetensors.
        bert: BERT in Hugging Face's names, likewise.
        checkpoint: instead of both, a whole checkpoint of CoupAlign, made for another image_size or window.

    Returns: what became of every tensor.

    Raises: UserError for files that cannot be read or do not fit, for a tensor that nothing explains and a parameter
        of an encoder that nothing fills; nothing is written then.
    """
    output = Path(output).expanduser()
    if output.suffix != ".ckpt":
        raise UserError(f"--output {output} does not end in .ckpt: change its ending")
    if checkpoint and (swin or bert):
        raise UserError("--checkpoint is a whole model and takes the place of --swin and --bert: give one or the other")
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
        naming = swin_naming(source.tensors) or _unknown(source, "Swin")
        taken.append(take(source, naming, "image_encoder.", shapes, values, _SWIN_KEYS))
    if bert:
        source = read_weights(bert)
        naming = bert_naming(source.tensors, config.model.bert_num_layers) or _unknown(source, "BERT")
        taken.append(take(source, naming, "text_encoder.", shapes, values, _BERT_KEYS))

    report = Report(output, taken, shapes)
    parameters = [{"name": name, "data": Tensor(values[name])} for name in shapes if name in values]
    if not checkpoint:
        parameters.append({"name": CONVERTED, "data": Tensor(np.array([1], np.int32))})
    with atomic_path(output) as weights_path, atomic_path(report.file) as report_path:
        mindspore.save_checkpoint(parameters, str(weights_path))
        report_path.write_text(report.text(), encoding="utf-8")
    return report


def take(
    source: Source,
    naming: Naming,
    prefix: str,
    shapes: dict[str, tuple[int, ...]],
    values: dict[str, np.ndarray],
    keys: str,
) -> Taken:
    """Adds to `values` the parameters below `prefix`, all of them, float32. Raises UserError as ``convert``."""
    wanted = {name: naming.sources(name.removeprefix(prefix)) for name in shapes if name.startswith(prefix)}
    places = {tensor: name for name, tensors in wanted.items() for tensor in tensors}
    taken = Taken(source, naming)
    unexplained = []
    for tensor in source.tensors:
        reason = naming.reason(tensor)
        if tensor not in places and reason is None:
            unexplained.append(tensor)
        elif tensor not in places:
            taken.ignored[tensor] = reason or ""
    lacking = [tensor for tensor in places if tensor not in source.tensors]
    if lacking:
        raise UserError(f"{source.path} lacks {few(lacking)}: {keys}")
    if unexplained:
        raise UserError(f"{source.path} has {few(unexplained)}, which the model has no place for: {keys}")
    for name, tensors in wanted.items():
        shape = (shapes[name][0] // len(tensors), *shapes[name][1:])
        parts = []
        for tensor in tensors:
            part = source.tensors[tensor]
            fitted = fit(name, part, shape)
            if fitted is None:
                raise UserError(f"{source.path} has {tensor} {part.shape}, which does not fit {shape}: {keys}")
            if part.dtype.kind != "f" or not np.isfinite(fitted[0]).all():
                raise UserError(f"{source.path} has numbers in {tensor} that are no finite floats: fetch it again")
            parts.append(fitted[0].astype(np.float32))
            taken.used[tensor] = name, fitted[1]
        values[name] = np.concatenate(parts)
    return taken


def _unknown(source: Source, kind: str) -> Naming:
    raise UserError(
        f"{source.path} holds no {kind} in names that are known, but {few(list(source.tensors))}: give "
        f"--{kind.lower()} the file of one"
    )
