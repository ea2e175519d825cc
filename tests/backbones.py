"""Hugging Face's Swin and BERT with random weights, and the names that CoupAlign gives those weights.

Float64, in evaluation mode, made from a configuration: nothing is downloaded.
"""

from __future__ import annotations

import re

import numpy as np
import torch
from mindspore import Tensor, nn
from transformers.utils import import_utils

from coupalign.config import ModelConfig

import_utils._torchvision_available = False  # not needed; a torchvision that does not match torch would fail to import
from transformers import BertConfig, BertModel, SwinConfig, SwinModel  # noqa: E402
from transformers.models.swin.modeling_swin import SwinSelfAttention  # noqa: E402

_SWIN = [
    ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("embeddings.norm", "patch_embed.norm"),
    ("encoder.", ""),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("layernorm", "norm"),
    ("attention.self.relative", "attn.relative"),
    ("attention.output.dense", "attn.proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
]


def random_swin(
    *, image_size: int, window: int, embed_dim: int, depths: list[int], heads: list[int], drop_path_rate: float = 0.0
) -> SwinModel:
    """SwinModel whose window is at most the map, as in the official code."""
    config = SwinConfig(
        image_size=image_size,
        patch_size=4,
        window_size=window,
        embed_dim=embed_dim,
        depths=depths,
        num_heads=heads,
        drop_path_rate=drop_path_rate,
        layer_norm_eps=1e-5,
    )
    model = SwinModel(config, add_pooling_layer=False)
    for i, stage in enumerate(model.encoder.layers):
        for block in stage.blocks:
            side = min(window, image_size // 4 // 2**i)
            block.attention.self = SwinSelfAttention(config, embed_dim * 2**i, heads[i], side)
    return _randomise(model)


def random_encoders(keys: ModelConfig) -> tuple[SwinModel, BertModel]:
    """Both encoders of the model section of a configuration."""
    sizes = {"embed_dim": keys.swin_embed_dim, "depths": keys.swin_depths, "heads": keys.swin_num_heads}
    swin = random_swin(image_size=keys.image_size, window=keys.swin_window_size, **sizes)
    sizes = {"vocab_size": keys.bert_vocab_size, "dim": keys.bert_hidden_size, "max_positions": keys.bert_max_positions}
    return swin, random_bert(layers=keys.bert_num_layers, heads=keys.bert_num_heads, **sizes)


def encoder_weights(swin: SwinModel, bert: BertModel) -> dict[str, np.ndarray]:
    """Weights of both encoders with the names that CoupAlign gives them."""
    weights = {f"image_encoder.{name}": value for name, value in swin_weights(swin).items()}
    return weights | {f"text_encoder.{name}": value for name, value in bert_weights(bert).items()}


def swin_weights(model: SwinModel) -> dict[str, np.ndarray]:
    """Weights with the names of the official Swin checkpoint and the suffixes of MindSpore."""
    weights = {}
    for name, value in _trained(model):
        for theirs, ours in _SWIN:
            name = name.replace(theirs, ours)
        part = re.fullmatch(r"(.*)attention\.self\.query(\.\w+)", name)
        if part:
            prefix = re.sub(r"^layers", "encoder.layers", part[1])
            joint = [
                model.get_parameter(f"{prefix}attention.self.{each}{part[2]}") for each in ("query", "key", "value")
            ]
            weights[f"{part[1]}attn.qkv{part[2]}"] = torch.cat(joint).detach().numpy()
        elif "attention.self" not in name:
            weights[_norms(name)] = value
    return weights


def random_bert(*, vocab_size: int, dim: int, layers: int, heads: int, max_positions: int) -> BertModel:
    """BertModel without its pooler."""
    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=dim,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * dim,
        max_position_embeddings=max_positions,
        attn_implementation="eager",
    )
    return _randomise(BertModel(config, add_pooling_layer=False))


def bert_weights(model: BertModel) -> dict[str, np.ndarray]:
    """Weights with their own names and the suffixes of MindSpore."""
    return {
        re.sub(r"(_embeddings)\.weight", r"\1.embedding_table", _norms(name)): value for name, value in _trained(model)
    }


def set_weights(cell: nn.Cell, weights: dict[str, np.ndarray]) -> None:
    """Sets every parameter. Names must be equal on both sides."""
    parameters = cell.parameters_dict()
    assert sorted(weights) == sorted(parameters)
    for name, value in weights.items():
        assert parameters[name].shape == value.shape, name
        parameters[name].set_data(Tensor(value.astype(np.float32)))


def _trained(model: torch.nn.Module) -> list[tuple[str, np.ndarray]]:
    return [(name, parameter.detach().numpy()) for name, parameter in model.named_parameters()]


def _norms(name: str) -> str:
    return re.sub(
        r"(norm\d?|LayerNorm)\.(weight|bias)$",
        lambda part: f"{part[1]}.{'gamma' if part[2] == 'weight' else 'beta'}",
        name,
    )


def _randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Sets every weight to random values that float32 represents exactly, so that no 0 or 1 hides a term."""
    generator = torch.Generator().manual_seed(0)
    model = model.double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = torch.randn(parameter.shape, generator=generator)
            if name.lower().endswith(("norm.weight", "before.weight", "after.weight")):
                value = 0.5 + torch.rand(parameter.shape, generator=generator)
            elif parameter.dim() > 1 and "embeddings.weight" not in name and "bias_table" not in name:
                value /= parameter[0].numel() ** 0.5
            parameter.copy_(value)
    return model
