"""Names of Swin and BERT tensors in other projects' files, and which of their tensors CoupAlign does not use."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Naming:
    """A naming scheme."""

    label: str  # project that uses the names
    sources: Callable[[str], tuple[str, ...]]  # from a parameter of the encoder to the tensors concatenated to it
    ignored: Pairs  # patterns of tensors that are not used, each with the reason

    def reason(self, name: str) -> str | None:
        """Why a tensor is ignored; None if no pattern matches it."""
        return next((reason for pattern, reason in self.ignored if re.search(pattern, name)), None)


_SWIN_IGNORED = (
    (r"\.(relative_position_index|attn_mask)$", "the model computes it"),
    (r"^(module\.)?(head|classifier)\.", "classification head"),
)
_PYTORCH = ((r"\.(gamma|embedding_table)$", ".weight"), (r"\.beta$", ".bias"))
_HUGGING_FACE_SWIN = (
    *_PYTORCH,
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^patch_embed\.norm\.", "embeddings.norm."),
    (r"^norm\.", "layernorm."),
    (r"^layers\.", "encoder.layers."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.", ".attention.self."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
# Since 0.9, timm has patch merging at the start of a stage; the official code has it at the end of the previous.
_TIMM = (*_PYTORCH, *((rf"^layers\.{i}\.downsample\.", f"layers.{i + 1}.downsample.") for i in (2, 1, 0)))


def swin_naming(names: Collection[str]) -> Naming | None:
    """The scheme of a Swin file: the official code, timm or Hugging Face; None if it is none of them."""
    prefix = _prefix(names, "patch_embed.proj.weight")
    if prefix is not None:
        is_timm = f"{prefix}layers.3.downsample.reduction.weight" in names
        return _naming(*(("timm", _TIMM) if is_timm else ("official", _PYTORCH)), prefix, _SWIN_IGNORED)
    prefix = _prefix(names, "embeddings.patch_embeddings.projection.weight")
    return None if prefix is None else _naming("Hugging Face", _HUGGING_FACE_SWIN, prefix, _SWIN_IGNORED)


def bert_naming(names: Collection[str], layers: int) -> Naming | None:
    """The scheme of a BERT file of Hugging Face, for a model of ``layers`` layers; None if it is no BERT."""
    prefix = _prefix(names, "embeddings.word_embeddings.weight")
    if prefix is None:
        return None
    start = "^" + re.escape(prefix)
    kept = "|".join(map(str, range(layers)))
    ignored = (
        (rf"{start}embeddings\.position_ids$", "the numbers 0, 1, 2, …"),
        (rf"{start}pooler\.", "pooler, which CoupAlign does not have"),
        (r"^(cls|classifier|qa_outputs)\.", "head of another task"),
        (rf"{start}encoder\.layer\.(?!({kept})\.)\d+\.", f"beyond bert_num_layers {layers}"),
    )
    # The first files of Hugging Face kept gamma and beta, the names of TensorFlow.
    is_old = f"{prefix}embeddings.LayerNorm.gamma" in names
    return _naming("Hugging Face", ((r"\.embedding_table$", ".weight"),) if is_old else _PYTORCH, prefix, ignored)


def own_naming(prefixes: Collection[str]) -> Naming:
    """The names of CoupAlign, which start with ``prefixes``."""
    pattern = rf"^(?!(?:{'|'.join(sorted(prefixes))})\.)"
    return Naming("CoupAlign", lambda name: (name,), ((pattern, "state of a training, not of the model"),))


def _prefix(names: Collection[str], name: str) -> str | None:
    """What precedes ``name`` in the names of a file, for example "", "module.", "backbone." or "swin."."""
    prefixes = [each[: -len(name)] for each in names if each.endswith(name)]
    return min((each for each in prefixes if not each or each.endswith(".")), key=len, default=None)


def _naming(label: str, replacements: Pairs, prefix: str, ignored: Pairs) -> Naming:
    def sources(name: str) -> tuple[str, ...]:
        for ours, theirs in replacements:
            name = re.sub(ours, theirs, name)
        if ".attention.self.qkv." in name:
            return tuple(prefix + name.replace(".qkv.", f".{part}.") for part in ("query", "key", "value"))
        return (prefix + name,)

    outside = ((f"^(?!{re.escape(prefix)})", "outside the encoder"),) if prefix else ()
    return Naming(label, sources, (*ignored, *outside))
