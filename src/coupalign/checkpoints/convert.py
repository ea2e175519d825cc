"""Converts pretrained encoders, or CoupAlign at another size, to a checkpoint that a training starts from."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mindspore import Tensor
from mindspore.nn.utils import no_init_parameters

from coupalign.checkpoints.fit import fit
from coupalign.checkpoints.loading import CONVERTED, MODEL_PREFIXES, first_few, save_weights
from coupalign.checkpoints.naming import Naming, bert_naming, own_naming, swin_naming
from coupalign.checkpoints.source import Source, read_own_checkpoint, read_weights
from coupalign.config import Config
from coupalign.errors import UserError
from coupalign.files import CHECKPOINTS, atomic_path, find_file, sha256
from coupalign.model import build_model

_KEYS = {
    "Swin": "set swin_embed_dim, swin_depths and swin_num_heads to those of this Swin",
    "BERT": "set bert_hidden_size, bert_num_layers, bert_max_positions and bert_vocab_size to those of this BERT",
    "": "pass its config.yaml with --config; only image_size, swin_window_size and a lower bert_max_positions may differ",
}
_STATISTICS = (".moving_mean", ".moving_variance")  # last parts of the names of batch-norm statistics


@dataclass
class Taken:
    """The use of the tensors of one file."""

    source: Source
    naming: Naming
    used: dict[str, tuple[str, str]] = field(default_factory=dict)  # parameter, and what was done to it ("": nothing)
    ignored: dict[str, str] = field(default_factory=dict)  # the reason

    def summary(self) -> str:
        """One line with counts."""
        changed = sum(bool(done) for _, done in self.used.values())
        reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(self.ignored.values()).items())
        return (
            f"{self.source.path}: {len(self.source.tensors)} tensors with names of {self.naming.label}, "
            f"{len(self.used)} used{f' ({changed} resized or cut)' if changed else ''}, {len(self.ignored)} ignored"
            f"{f' ({reasons})' if reasons else ''}"
        )

    def lines(self) -> Iterator[str]:
        """The use of each tensor."""
        yield f"{self.source.path} (sha256 {sha256(self.source.path)})"
        for name, tensor in self.source.tensors.items():
            parameter, done = self.used.get(name, ("", ""))
            use = f"-> {parameter}{f', {done}' if done else ''}" if parameter else f"ignored: {self.ignored[name]}"
            yield f"  {name} {tensor.dtype} {tensor.shape} {use}"


@dataclass(frozen=True)
class Report:
    """The result of a conversion: the written checkpoint, the use of each file, and parameters with random weights."""

    output: Path
    taken: list[Taken]
    random: list[str]

    @property
    def file(self) -> Path:
        """Path of the full report."""
        return self.output.with_name(f"{self.output.name}.report.txt")

    def summary(self) -> str:
        """A line for each file, one for parameters that keep random weights, one for the written checkpoint."""
        lines = [taken.summary() for taken in self.taken]
        modules = Counter(name.split(".")[0] for name in self.random)
        if modules:
            lines.append(f"random weights in {', '.join(f'{module} ({count})' for module, count in modules.items())}")
        return "\n".join([*lines, f"{self.output}: written; details in {self.file}"])

    def text(self) -> str:
        """The summary, the use of all tensors of the files, and the parameters with random weights."""
        lines = [self.summary()]
        for taken in self.taken:
            lines += ["", *taken.lines()]
        return "\n".join([*lines, "", "parameters with random weights", *(f"  {name}" for name in self.random), ""])


def convert(
    config: Config,
    output: str | os.PathLike,
    *,
    swin: str | os.PathLike | None = None,
    bert: str | os.PathLike | None = None,
    checkpoint: str | os.PathLike | None = None,
    dtype: str = "float32",
) -> Report:
    """Writes a checkpoint for ``init_checkpoint`` and, beside it, ``<output>.report.txt``.

    Args:
        config: Configuration of the model that will start from the checkpoint.
        output: The .ckpt or .safetensors file to write.
        swin, bert: PyTorch or safetensors files (``swin_naming``, ``bert_naming``).
        checkpoint: Instead of both, a checkpoint of CoupAlign trained with another image_size or window.
        dtype: "float32", or "float16" for a file of half the size. Batch-norm statistics are always float32.

    Raises: UserError if a file cannot be read or does not fit, a tensor has no known use, a parameter of an encoder has
        no tensor, or a value exceeds the range of `dtype`. Nothing is written then.
    """
    output = Path(output).expanduser()
    if output.suffix not in CHECKPOINTS:
        raise UserError(f"--output {output} must end in .ckpt or .safetensors")
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
        taken.append(take(read_own_checkpoint(checkpoint), own_naming(MODEL_PREFIXES), "", shapes, values))
    if swin:
        source = read_weights(swin)
        taken.append(take(source, swin_naming(source.tensors), "image_encoder.", shapes, values, "Swin"))
    if bert:
        source = read_weights(bert)
        naming = bert_naming(source.tensors, config.model.bert_num_layers)
        taken.append(take(source, naming, "text_encoder.", shapes, values, "BERT"))

    report = Report(output, taken, [name for name in shapes if name not in values])
    weights = {name: Tensor(_in_dtype(name, values[name], dtype)) for name in shapes if name in values}
    if not checkpoint:
        weights[CONVERTED] = Tensor(np.array([1], np.int32))
    with atomic_path(report.file) as report_path:
        report_path.write_text(report.text(), encoding="utf-8")
        save_weights(output, weights)
    return report


def _in_dtype(name: str, value: np.ndarray, dtype: str) -> np.ndarray:
    # Variances follow the square of the activations: those of the shipped model reach 3.5e6, beyond float16's 65,504.
    if name.endswith(_STATISTICS):
        return value
    with np.errstate(over="ignore"):
        result = value.astype(dtype)
    if not np.isfinite(result).all():
        raise UserError(f"{name} has values up to {np.abs(value).max():.3g}, which exceed {dtype}: use --dtype float32")
    return result


def take(
    source: Source,
    naming: Naming | None,
    prefix: str,
    shapes: dict[str, tuple[int, ...]],
    values: dict[str, np.ndarray],
    kind: str = "",
) -> Taken:
    """Adds the parameters of the model's `shapes` whose names start with `prefix` to `values`, as float32.

    `kind` is "Swin", "BERT", or "" for CoupAlign. Raises: UserError, as ``convert``.
    """
    path, remedy = source.path, _KEYS[kind]
    if naming is None:
        raise UserError(
            f"{path} has no known names of a {kind}, but {first_few(source.tensors)}: give --{kind.lower()} a {kind} file"
        )
    wanted = {name: naming.sources(name.removeprefix(prefix)) for name in shapes if name.startswith(prefix)}
    used = {tensor for tensors in wanted.values() for tensor in tensors}
    lacking = used - source.tensors.keys()
    if lacking and lacking == {tensor for name in ("norm.gamma", "norm.beta") for tensor in naming.sources(name)}:
        raise UserError(
            f"{path} lacks the final norm {first_few(sorted(lacking))}, as backbones of detection and segmentation "
            "models do: choose the ImageNet checkpoint of this Swin"
        )
    if lacking:
        raise UserError(f"{path} lacks {first_few(sorted(lacking))}: {remedy}")
    ignored = {tensor: naming.reason(tensor) or "" for tensor in source.tensors if tensor not in used}
    unknown = [tensor for tensor, reason in ignored.items() if not reason]
    if unknown:
        raise UserError(f"{path} has {first_few(unknown)}, which the model has no parameter for: {remedy}")
    taken = Taken(source, naming, ignored=ignored)
    for name, tensors in wanted.items():
        shape = (shapes[name][0] // len(tensors), *shapes[name][1:])
        parts = []
        for tensor in tensors:
            part = source.tensors[tensor]
            fitted = fit(name, part, shape)
            if fitted is None:
                raise UserError(f"{path} has {tensor} {part.shape}, which does not fit {shape}: {remedy}")
            if part.dtype.kind != "f" or not np.isfinite(fitted[0]).all():
                raise UserError(f"{path} has values in {tensor} that are not finite floats: download it again")
            parts.append(fitted[0].astype(np.float32))
            taken.used[tensor] = name, fitted[1]
        values[name] = np.concatenate(parts)
    return taken
