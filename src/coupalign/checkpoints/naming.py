"""Names of Swin and BERT tensors in other projects' files, and which of their tensors CoupAlign does not use."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial


@dataclass(frozen=True)
class Naming:
    """A naming scheme.

    Attributes:
        label: Project that uses the names.
        sources: Maps a parameter of the encoder to the tensors that are concatenated to it.
        ignored: Patterns of tensors that are not used, each with the reason.
    """

    label: str
    sources: Callable[[str], tuple[str, ...]]
    ignored: tuple[tuple[str, str], ...]

    def reason(self, name: str) -> str | None:
        """Why a tensor is ignored; None if no pattern matches it."""
        return next((reason for pattern, reason in self.ignored if re.search(pattern, name)), None)


_SWIN_IGNORED = (
    (r"\.relative_position_index$", "the model computes it"),
    (r"\.attn_mask$", "the model computes it"),
    (r"^(module\.)?(head|classifier)\.", "classification head"),
)
_HUGGING_FACE_SWIN = (
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


def swin_naming(names: Collection[str]) -> Naming | None:
    """The scheme of a Swin file: the official code, timm or Hugging Face; None if it is none of them."""
    prefix = _prefix(names, "patch_embed.proj.weight")
    if prefix is not None:
        start = prefix
        # Since 0.9, timm has patch merging at the start of a stage; the official code has it at the end of the previous.
        is_timm = f"{prefix}layers.3.downsample.reduction.weight" in names
        label, rename = ("timm", _timm_swin) if is_timm else ("official", _pytorch)
        return Naming(label, lambda name: (start + rename(name),), (*_SWIN_IGNORED, *_outside(prefix)))
    prefix = _prefix(names, "embeddings.patch_embeddings.projection.weight")
    if prefix is None:
        return None
    return Naming("Hugging Face", partial(_hugging_face_swin, prefix), (*_SWIN_IGNORED, *_outside(prefix)))


def bert_naming(names: Collection[str], layers: int) -> Naming | None:
    """The scheme of a BERT file of Hugging Face, for a model of ``layers`` layers; None if it is no BERT."""
    prefix = _prefix(names, "embeddings.word_embeddings.weight")
    if prefix is None:
        return None
    # The first files of Hugging Face kept gamma and beta, the names of TensorFlow.
    rename = _pytorch_embedding if f"{prefix}embeddings.LayerNorm.gamma" in names else _pytorch
    start = "^" + re.escape(prefix)
    wanted = "|".join(map(str, range(layers)))
    ignored = (
        (rf"{start}embeddings\.position_ids$", "the numbers 0, 1, 2, …"),
        (rf"{start}pooler\.", "pooler, which CoupAlign does not have"),
        (r"^(cls|classifier|qa_outputs)\.", "head of another task"),
        (rf"{start}encoder\.layer\.(?!({wanted})\.)\d+\.", f"beyond bert_num_layers {layers}"),
        *_outside(prefix),
    )
    return Naming("Hugging Face", lambda name: (prefix + rename(name),), ignored)


def own_naming(prefixes: Collection[str]) -> Naming:
    """The names of CoupAlign, which start with ``prefixes``."""
    pattern = rf"^(?!(?:{'|'.join(sorted(prefixes))})\.)"
    return Naming("CoupAlign", lambda name: (name,), ((pattern, "state of a training, not of the model"),))


def _prefix(names: Collection[str], name: str) -> str | None:
    """What precedes ``name`` in the names of a file, for example "", "module.", "backbone." or "swin."."""
    prefixes = [each[: -len(name)] for each in names if each.endswith(name)]
    return min((each for each in prefixes if not each or each.endswith(".")), key=len, default=None)


def _outside(prefix: str) -> tuple[tuple[str, str], ...]:
    return ((f"^(?!{re.escape(prefix)})", "outside the encoder"),) if prefix else ()


def _pytorch_embedding(name: str) -> str:
    return re.sub(r"\.embedding_table$", ".weight", name)


def _pytorch(name: str) -> str:
    return re.sub(r"\.beta$", ".bias", re.sub(r"\.gamma$", ".weight", _pytorch_embedding(name)))


def _timm_swin(name: str) -> str:
    name = _pytorch(name)
    return re.sub(r"^layers\.(\d)\.downsample\.", lambda stage: f"layers.{int(stage[1]) + 1}.downsample.", name)


def _hugging_face_swin(prefix: str, name: str) -> tuple[str, ...]:
    name = _pytorch(name)
    for ours, theirs in _HUGGING_FACE_SWIN:
        name = re.sub(ours, theirs, name)
    if ".qkv." in name:
        return tuple(prefix + name.replace(".qkv.", f".{part}.") for part in ("query", "key", "value"))
    return (prefix + name,)
