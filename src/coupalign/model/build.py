"""Builds the model that a configuration describes, with initial weights."""

from __future__ import annotations

import math

import mindspore
import numpy as np
from mindspore import Tensor, nn
from mindspore.common.initializer import TruncatedNormal, initializer

from coupalign.config import Config
from coupalign.model.bert import BertModel
from coupalign.model.coup_align import CoupAlign
from coupalign.model.cross_attention import CrossAttention
from coupalign.model.existence import Existence
from coupalign.model.gate import Gate
from coupalign.model.layers import INIT_STD
from coupalign.model.mask_generator import MaskGenerator
from coupalign.model.seg_head import SegHead
from coupalign.model.sma import SentenceMaskAlignment
from coupalign.model.swin import SwinTransformer, WindowAttention
from coupalign.model.wpa import WordPixelAlignment


def build_model(config: Config, precision: str | None = None) -> CoupAlign:
    """Builds CoupAlign with random weights.

    Args:
        config: Its model section describes the model.
        precision: Type of matrix products and convolutions; by default ``config.run.precision``.
    """
    keys = config.model
    text_dim = keys.bert_hidden_size
    image_dims = [keys.swin_embed_dim * 2**i for i in range(4)]

    def alignment(stage: int) -> WordPixelAlignment | None:
        if keys.wpa_direction == "none" or stage not in keys.wpa_stages:
            return None
        return WordPixelAlignment(
            image_dim=image_dims[stage - 1],
            text_dim=text_dim,
            dim=keys.wpa_dim,
            bidirectional=keys.wpa_direction == "bi",
            normed=keys.wpa_norm,
        )

    mask_generator = sma = None
    if keys.sma:
        mask_generator = MaskGenerator(
            image_dim=image_dims[3],
            dim=keys.decoder_dim,
            num_queries=keys.num_queries,
            layers=keys.decoder_layers,
            heads=keys.decoder_heads,
            ffn_dim=keys.decoder_ffn_dim,
            anchored=keys.image_size // 32 if keys.query_anchors else 0,
        )
        sma = SentenceMaskAlignment(
            query_dim=keys.decoder_dim, pixel_dim=keys.seg_head_dim, dim=text_dim, temperature=keys.sma_temperature
        )
    model = CoupAlign(
        image_encoder=SwinTransformer(
            image_size=keys.image_size,
            embed_dim=keys.swin_embed_dim,
            depths=keys.swin_depths,
            heads=keys.swin_num_heads,
            window=keys.swin_window_size,
            drop_path_rate=keys.swin_drop_path_rate,
        ),
        text_encoder=BertModel(
            vocab_size=keys.bert_vocab_size,
            dim=text_dim,
            heads=keys.bert_num_heads,
            layers=keys.bert_num_layers,
            max_positions=keys.bert_max_positions,
            dropout=keys.bert_dropout,
        ),
        wpa=[alignment(stage) for stage in (1, 2, 3, 4)],
        cross_attention=CrossAttention(
            image_dim=image_dims[3],
            dim=text_dim,
            heads=keys.cross_attention_heads,
            num_pixels=(keys.image_size // 32) ** 2,
            normed=keys.cross_attention_norm,
        ),
        mask_generator=mask_generator,
        seg_head=SegHead(
            image_dims=image_dims, dim=keys.seg_head_dim, size=keys.image_size // 4, statistics=keys.batch_norm
        ),
        sma=sma,
        existence=Existence(pixel_dim=keys.seg_head_dim, text_dim=text_dim) if keys.existence else None,
        seg_head_dim=keys.seg_head_dim,
        image_size=keys.image_size,
    )
    if keys.linear_init_std != INIT_STD:
        _init_linear_layers(model, keys.linear_init_std)
    if keys.wpa_norm:
        _close_gates(model)
    if mask_generator is not None and keys.query_anchors:
        _equate_queries_and_keys(mask_generator)
    if keys.swin_bias_start == "neighbours":
        _init_position_biases(model.image_encoder)
    precision = precision or config.run.precision
    if precision != "fp32":
        compute_in(model, {"fp16": mindspore.float16, "bf16": mindspore.bfloat16}[precision])
    return model


def compute_in(cell: nn.Cell, dtype: mindspore.dtype) -> nn.Cell:
    """Makes products and convolutions in ``cell`` compute in ``dtype``, except in SMA and Existence.

    Parameters, normalisation and residual sums stay float32. Softmax and other float32 steps cast in their own code.
    Returns the cell.
    """
    if isinstance(cell, (nn.LayerNorm, nn.BatchNorm2d, SentenceMaskAlignment, Existence)):
        cell.to_float(mindspore.float32)
    elif isinstance(cell, (nn.Dense, nn.Conv2d, nn.Identity)):
        cell.to_float(dtype)
    else:
        for child in cell.cells():
            compute_in(child, dtype)
    return cell


def _init_linear_layers(model: CoupAlign, std: float) -> None:
    """Initialises the weights of linear layers again with ``std``, or with 1 / sqrt(inputs) if it is 0.

    The 0.02 of BERT and Swin suits widths near 768. In a model of width 64, five such layers in a row and a gate
    leave 1e-5 of the words' signal, which delays learning. The last layer keeps 0.02: larger weights would start
    training at logits near 20.
    """
    for _, cell in model.cells_and_names():
        if isinstance(cell, nn.Dense) and not (model.has_sma and cell is model.sma.pixel_proj):
            weight = cell.weight
            distribution = TruncatedNormal(std or weight.shape[1] ** -0.5)
            weight.set_data(initializer(distribution, weight.shape, weight.dtype))


def _close_gates(model: CoupAlign) -> None:
    """Initialises the gates (Eq 6) to 0, so that fusion starts from the encoders' own features."""
    for _, cell in model.cells_and_names():
        if isinstance(cell, Gate):
            cell.fc2.weight.set_data(initializer("zeros", cell.fc2.weight.shape, cell.fc2.weight.dtype))


def _equate_queries_and_keys(generator: MaskGenerator) -> None:
    """Initialises both projections of the cross attention to identity: a query attends to the keys nearest to it."""
    for layer in generator.layers:
        for each in (layer.cross_attention.query, layer.cross_attention.key):
            each.weight.set_data(initializer("identity", each.weight.shape, each.weight.dtype))


def _init_position_biases(encoder: SwinTransformer) -> None:
    """Initialises relative position biases so that each head attends to one of the nearest neighbours.

    Attention then starts as a convolution (d'Ascoli et al., ConViT, ICML 2021), which a Swin without pretrained
    weights would have to learn. Head h attends to offset o_h, nearest first, with bias ``-|o - o_h|^2`` at offset o.
    """
    for _, cell in encoder.cells_and_names():
        if isinstance(cell, WindowAttention) and cell.window_area > 1:
            table = cell.relative_position_bias_table
            side = math.isqrt(table.shape[0])
            offsets = np.stack(np.divmod(np.arange(side**2), side), 1) - side // 2
            nearest = offsets[np.argsort((offsets**2).sum(1), kind="stable")][1:]
            targets = nearest[np.arange(table.shape[1]) % len(nearest)]
            biases = -((offsets[:, None] - targets[None]) ** 2).sum(-1)
            table.set_data(Tensor(biases.astype(np.float32)))
