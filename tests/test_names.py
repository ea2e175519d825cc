"""Names and shapes of all parameters: the encoders' from Hugging Face, the others written out. Checkpoints depend on them."""

from __future__ import annotations

from typing import Any

import pytest
from mindspore import nn
from mindspore.nn.utils import no_init_parameters

from coupalign.config import load_config
from coupalign.model import build_model
from tests.backbones import encoder_weights, random_encoders
from tests.conftest import TINY

Shapes = dict[str, tuple[int, ...]]


def dense(name: str, out_dim: int, in_dim: int) -> Shapes:
    return {f"{name}.weight": (out_dim, in_dim), f"{name}.bias": (out_dim,)}


def norm(name: str, dim: int) -> Shapes:
    return {f"{name}.gamma": (dim,), f"{name}.beta": (dim,)}


def conv(name: str, out_dim: int, in_dim: int, kernel: int) -> Shapes:
    return {f"{name}.weight": (out_dim, in_dim, kernel, kernel), f"{name}.bias": (out_dim,)}


def fusion(c: Any) -> Shapes:
    """Names of all modules between and after the encoders."""
    text, joint = c.bert_hidden_size, c.wpa_dim
    widths = [c.swin_embed_dim * 2**i for i in range(4)]
    shapes = {}
    for i, image in enumerate(widths):
        if c.wpa_direction == "none" or i + 1 not in c.wpa_stages:
            continue
        wpa = f"wpa.{i}"
        shapes |= dense(f"{wpa}.image_proj", joint, image) | dense(f"{wpa}.text_proj", joint, text)
        shapes |= dense(f"{wpa}.text_to_image", image, joint)
        shapes |= dense(f"{wpa}.image_gate.fc1", image, image) | dense(f"{wpa}.image_gate.fc2", image, image)
        if c.wpa_direction == "bi":
            shapes |= dense(f"{wpa}.image_to_text", text, joint)
            shapes |= dense(f"{wpa}.text_gate.fc1", text, text) | dense(f"{wpa}.text_gate.fc2", text, text)

    shapes["cross_attention.position_embedding"] = (1, (c.image_size // 32) ** 2, text)
    shapes |= dense("cross_attention.image_proj", text, widths[3]) | dense("cross_attention.output", widths[3], text)
    for part in ("text_proj", "query", "key", "value"):
        shapes |= dense(f"cross_attention.{part}", text, text)

    head = c.seg_head_dim
    for i, image in enumerate(widths):
        shapes |= conv(f"seg_head.rho.{i}.conv1", head, widths[3] if i == 3 else head, 3)
        shapes |= conv(f"seg_head.rho.{i}.conv2", head, head, 3) | conv(f"seg_head.gamma.{i}", head, image, 1)
        for part in ("gamma", "beta", "moving_mean", "moving_variance"):
            shapes |= {f"seg_head.rho.{i}.bn{k}.{part}": (head,) for k in (1, 2)}
    return shapes | (proposals(c) if c.sma else conv("mask_proj", 1, head, 1))


def proposals(c: Any) -> Shapes:
    """Names of the mask generator and of Sentence-Mask Alignment."""
    dim = c.decoder_dim
    shapes = {"mask_generator.queries": (c.num_queries, dim)}
    shapes |= dense("mask_generator.memory_proj", dim, 8 * c.swin_embed_dim)
    for i in range(c.decoder_layers):
        layer = f"mask_generator.layers.{i}"
        for attention in ("self_attention", "cross_attention"):
            for part in ("query", "key", "value", "output"):
                shapes |= dense(f"{layer}.{attention}.{part}", dim, dim)
        shapes |= dense(f"{layer}.fc1", c.decoder_ffn_dim, dim) | dense(f"{layer}.fc2", dim, c.decoder_ffn_dim)
        for k in (1, 2, 3):
            shapes |= norm(f"{layer}.norm{k}", dim)
    shapes |= dense("sma.query_proj", c.bert_hidden_size, dim)
    return shapes | dense("sma.pixel_proj", c.bert_hidden_size, c.seg_head_dim)


CASES = {
    "tiny": TINY,
    "eight layers of text, windows of 7": {**TINY, "bert_num_layers": 8, "swin_window_size": 7},
    "no alignment": {**TINY, "wpa_direction": "none"},
    "stages 2 and 4, one way": {**TINY, "wpa_stages": [2, 4], "wpa_direction": "uni"},
    "no SMA": {**TINY, "sma": False},
    "more queries": {**TINY, "num_queries": 20, "decoder_layers": 3},
}


@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES)
def test_parameters(overrides):
    config = load_config(overrides=overrides)
    encoders = encoder_weights(*random_encoders(config.model))
    expected = {name: value.shape for name, value in encoders.items()} | fusion(config.model)
    with no_init_parameters():
        parameters = build_model(config).parameters_dict()
    assert {name: parameter.shape for name, parameter in parameters.items()} == expected
    assert all(name == parameter.name for name, parameter in parameters.items())
    fixed = {name for name, parameter in parameters.items() if not parameter.requires_grad}
    assert fixed == {name for name in expected if ".moving_" in name}


def test_the_papers_model_has_229_5_million_parameters():
    with no_init_parameters():
        model = build_model(load_config())
    assert sum(parameter.size for parameter in model.trainable_params()) == 229_499_192


def test_every_norm_has_its_epsilon():
    """Features of usual size do not distinguish 1e-12 from 1e-5, but rare small ones of pretrained encoders do."""
    with no_init_parameters():
        model = build_model(load_config(overrides=TINY))
    found = {}
    for name, cell in model.cells_and_names():
        if isinstance(cell, (nn.LayerNorm, nn.BatchNorm2d)):
            found.setdefault(name.split(".")[0], set()).add(getattr(cell, "epsilon", None) or cell.eps)
    assert found == {"image_encoder": {1e-5}, "text_encoder": {1e-12}, "mask_generator": {1e-5}, "seg_head": {1e-5}}
