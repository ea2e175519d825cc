"""From a configuration to the model."""

from __future__ import annotations

import math

import mindspore
import numpy as np
from mindspore import Tensor, nn
from mindspore.common.initializer import TruncatedNormal, initializer

from coupalign.model.bert import BertModel
from coupalign.model.coup_align import CoupAlign
from coupalign.model.cross_attention import CrossAttention
from coupalign.model.layers import START
from coupalign.model.mask_generator import MaskGenerator
from coupalign.model.seg_head import SegHead
from coupalign.model.sma import SentenceMaskAlignment
from coupalign.model.swin import SwinTransformer, WindowAttention
from coupalign.model.wpa import NoAlignment, WordPixelAlignment


def build_model(config, precision: str | None = None) -> CoupAlign:
    """CoupAlign as the model keys of ``config`` (``coupalign.config.load_config``) describe it, with random weights.

    Args:
        precision: fp32, fp16 or bf16, of matrix products and convolutions; None is that of the configuration.
    """
    text_dim = config.model.bert_hidden_size
    image_dims = [config.model.swin_embed_dim * 2**i for i in range(4)]

    def alignment(stage: int):
        if config.model.wpa_direction == "none" or stage not in config.model.wpa_stages:
            return NoAlignment()
        return WordPixelAlignment(
            image_dim=image_dims[stage - 1],
            text_dim=text_dim,
            dim=config.model.wpa_dim,
            bidirectional=config.model.wpa_direction == "bi",
        )

    mask_generator = sma = None
    if config.model.sma:
        mask_generator = MaskGenerator(
            image_dim=image_dims[3],
            dim=config.model.decoder_dim,
            num_queries=config.model.num_queries,
            layers=config.model.decoder_layers,
            heads=config.model.decoder_heads,
            ffn_dim=config.model.decoder_ffn_dim,
        )
        sma = SentenceMaskAlignment(
            query_dim=config.model.decoder_dim,
            pixel_dim=config.model.seg_head_dim,
            dim=text_dim,
            temperature=config.model.sma_temperature,
        )
    model = CoupAlign(
        image_encoder=SwinTransformer(
            image_size=config.model.image_size,
            embed_dim=config.model.swin_embed_dim,
            depths=config.model.swin_depths,
            heads=config.model.swin_num_heads,
            window=config.model.swin_window_size,
            drop_path_rate=config.model.swin_drop_path_rate,
        ),
        text_encoder=BertModel(
            vocab_size=config.model.bert_vocab_size,
            dim=text_dim,
            heads=config.model.bert_num_heads,
            layers=config.model.bert_num_layers,
            max_positions=config.model.bert_max_positions,
            dropout=config.model.bert_dropout,
        ),
        wpa=[alignment(stage) for stage in (1, 2, 3, 4)],
        cross_attention=CrossAttention(
            image_dim=image_dims[3],
            dim=text_dim,
            heads=config.model.cross_attention_heads,
            num_pixels=(config.model.image_size // 32) ** 2,
        ),
        mask_generator=mask_generator,
        seg_head=SegHead(
            image_dims=image_dims,
            fused_dim=image_dims[3],
            dim=config.model.seg_head_dim,
            size=config.model.image_size // 4,
            statistics=config.model.batch_norm,
        ),
        sma=sma,
        seg_head_dim=config.model.seg_head_dim,
        image_size=config.model.image_size,
    )
    if config.model.linear_init_std != START:
        _start_linear_layers(model, config.model.linear_init_std)
    if config.model.swin_bias_start == "neighbours":
        _look_at_neighbours(model.image_encoder)
    precision = precision or config.run.precision
    if precision != "fp32":
        compute_in(model, {"fp16": mindspore.float16, "bf16": mindspore.bfloat16}[precision])
    return model


def compute_in(cell: nn.Cell, dtype: mindspore.dtype) -> nn.Cell:
    """Lets matrix products and convolutions in `cell` compute in `dtype`, but for Sentence-Mask Alignment.

    Parameters stay float32, and so do norms and what is added up from block to block; softmax and what else has to be
    float32 says so where it is written. Returns: the cell.
    """
    if isinstance(cell, (nn.LayerNorm, nn.BatchNorm2d, SentenceMaskAlignment)):
        cell.to_float(mindspore.float32)
    elif isinstance(cell, (nn.Dense, nn.Conv2d, nn.Identity)):
        cell.to_float(dtype)
    else:
        for child in cell.cells():
            compute_in(child, dtype)
    return cell


def _start_linear_layers(model: CoupAlign, std: float) -> None:
    """Draws the weights of linear layers anew, with `std`, or 1 / sqrt(inputs) where it is 0.

    The .02 of BERT and Swin suits widths near 768. In a model of width 64, five such layers in a row and a gate that
    multiplies their product by itself leave 1e-5 of the words' signal, and training takes long to find it. The last
    layer keeps its .02: with more, training begins at logits of some twenty, and its first hundred steps take them back.
    """
    for _, cell in model.cells_and_names():
        if isinstance(cell, nn.Dense) and not (model.has_sma and cell is model.sma.pixel_proj):
            weight = cell.weight
            draw = TruncatedNormal(std or weight.shape[1] ** -0.5)
            weight.set_data(initializer(draw, weight.shape, weight.dtype))


def _look_at_neighbours(encoder: SwinTransformer) -> None:
    """Starts relative position biases so that each head looks at another of the nearest patches around its own.

    Attention then begins as a convolution does, of which a Swin without pretrained weights has to learn each tap (as
    d'Ascoli et al., ConViT, ICML 2021, start theirs). Head h looks at offset o_h, from the nearest on, with bias
    ``-|o - o_h|^2`` at offset o.
    """
    for _, cell in encoder.cells_and_names():
        if isinstance(cell, WindowAttention) and cell.length > 1:
            table = cell.relative_position_bias_table
            side = math.isqrt(table.shape[0])
            offsets = np.stack(np.divmod(np.arange(side**2), side), 1) - side // 2
            nearest = offsets[np.argsort((offsets**2).sum(1), kind="stable")][1:]
            looked_at = nearest[np.arange(table.shape[1]) % len(nearest)]
            biases = -((offsets[:, None] - looked_at[None]) ** 2).sum(-1)
            table.set_data(Tensor(biases.astype(np.float32)))
