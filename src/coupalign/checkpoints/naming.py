"""How files name the tensors of Swin and BERT, and what in them CoupAlign has no place for."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial


@dataclass(frozen=True)
class Naming:
    """The names of one scheme.

    Attributes:
        label: whose names they are.
        sources: the parameter of the encoder -> the tensors it is made of, one below the other.
        ignored: patterns of tensors that have no place, with the reason.
    """

    label: str
    sources: Callable[[str], tuple[str, ...]]
    ignored: tuple[tuple[str, str], ...]

    def reason(self, name: str) -> str | None:
        """Why a tensor is ignored, or None where nothing explains it."""
        return next((reason for pattern, reason in self.ignored if re.search(pattern, name)), None)


_SWIN_IGNORED = (
    (r"\.relative_position_index$", "the model computes it"),
    (r"\.attn_mask$", "the model computes it"),
    (r"^(head|classifier)\.", "classification head"),
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
    """Whose names these are: the official code's, timm's or Hugging Face's; None where they are not of a Swin."""
    if "patch_embed.proj.weight" in names:
        # timm since 0.9 has a stage begin with what ends the one before in the official code and in older timm.
        if "layers.3.downsample.reduction.weight" in names:
            return Naming("timm's", _timm_swin, _SWIN_IGNORED)
        return Naming("the official", lambda name: (_pytorch(name),), _SWIN_IGNORED)
    prefix = _prefix(names, "swin.", "embeddings.patch_embeddings.projection.weight")
    return None if prefix is None else Naming("Hugging Face's", partial(_hugging_face_swin, prefix), _SWIN_IGNORED)


def bert_naming(names: Collection[str], layers: int) -> Naming | None:
    """Which of Hugging Face's names these are, with `layers` layers wanted; None where they are not of a BERT."""
    prefix = _prefix(names, "bert.", "embeddings.word_embeddings.weight")
    if prefix is None:
        return None
    # TensorFlow's checkpoints had gamma and beta, which the first files of Hugging Face's kept.
    rename = _pytorch_embedding if f"{prefix}embeddings.LayerNorm.gamma" in names else _pytorch
    start = "^" + re.escape(prefix)
    wanted = "|".join(map(str, range(layers)))
    ignored = (
        (rf"{start}embeddings\.position_ids$", "the numbers 0, 1, 2, …"),
        (rf"{start}pooler\.", "pooler, which CoupAlign has none of"),
        (r"^(cls|classifier|qa_outputs)\.", "head of another task"),
        (rf"{start}encoder\.layer\.(?!({wanted})\.)\d+\.", f"beyond bert_num_layers {layers}"),
    )
    return Naming("Hugging Face's", lambda name: (prefix + rename(name),), ignored)


def own_naming(rooms: Collection[str]) -> Naming:
    """CoupAlign's own names, which are in these rooms; whatever else is in the file is not the model's."""
    return Naming(
        "CoupAlign's",
        lambda name: (name,),
        ((rf"^(?!(?:{'|'.join(sorted(rooms))})\.)", "state of a training, not of the model"),),
    )


def _prefix(names: Collection[str], prefix: str, name: str) -> str | None:
    """`prefix` or "", whichever makes `name` one of the names; None where neither does."""
    return next((start for start in (prefix, "") if start + name in names), None)


def _pytorch_embedding(name: str) -> str:
    return re.sub(r"\.embedding_table$", ".weight", name)


def _pytorch(name: str) -> str:
    return re.sub(r"\.beta$", ".bias", re.sub(r"\.gamma$", ".weight", _pytorch_embedding(name)))


def _timm_swin(name: str) -> tuple[str, ...]:
    return (
        re.sub(r"^layers\.(\d)\.downsample\.", lambda stage: f"layers.{int(stage[1]) + 1}.downsample.", _pytorch(name)),
    )


def _hugging_face_swin(prefix: str, name: str) -> tuple[str, ...]:
    name = _pytorch(name)
    for ours, theirs in _HUGGING_FACE_SWIN:
        name = re.sub(ours, theirs, name)
    if ".qkv." in name:
        return tuple(prefix + name.replace(".qkv.", f".{part}.") for part in ("query", "key", "value"))
    return (prefix + name,)
