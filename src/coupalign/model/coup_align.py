"""CoupAlign: word-pixel alignment coupled with sentence-mask alignment (Zhang et al., NeurIPS 2022)."""

from __future__ import annotations

import mindspore
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import TruncatedNormal

from coupalign.model.bert import BertModel
from coupalign.model.cross_attention import CrossAttention
from coupalign.model.layers import START, padding_bias
from coupalign.model.mask_generator import MaskGenerator
from coupalign.model.resize import Upsample
from coupalign.model.seg_head import SegHead
from coupalign.model.sma import SentenceMaskAlignment
from coupalign.model.swin import SwinTransformer
from coupalign.model.wpa import NoAlignment, WordPixelAlignment


class CoupAlign(nn.Cell):
    """Referring image segmentation: an image and an expression give the mask of the referent.

    The parts are made by ``coupalign.model.build_model``; this Cell is how they are coupled (Fig. 2).

    Inputs: image (B, 3, H, W) float32, normalised RGB; token_ids (B, T) int32; token_mask (B, T) int32, 1 for a
    real token. Outputs: logits (B, H, W) float32, before the sigmoid.
    """

    def __init__(
        self,
        *,
        image_encoder: SwinTransformer,
        text_encoder: BertModel,
        wpa: list[WordPixelAlignment | NoAlignment],
        cross_attention: CrossAttention,
        mask_generator: MaskGenerator | None,
        seg_head: SegHead,
        sma: SentenceMaskAlignment | None,
        seg_head_dim: int,
        image_size: int,
    ):
        super().__init__()
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.wpa = nn.CellList(wpa)
        self.aligned = [isinstance(stage, WordPixelAlignment) for stage in wpa]
        self.cross_attention = cross_attention
        self.seg_head = seg_head
        self.has_sma = sma is not None
        if self.has_sma:
            self.mask_generator = mask_generator
            self.sma = sma
        else:
            # Starts as W^Y does, not as a convolution before a ReLU, whose logits would be far from 0.
            self.mask_proj = nn.Conv2d(
                seg_head_dim, 1, 1, has_bias=True, weight_init=TruncatedNormal(START), bias_init="zeros"
            )
        self.upsample = Upsample(size=image_size // 4, factor=4)
        self.sides = [image_size // 4 // 2**i for i in range(4)]

    def recompute_blocks(self) -> None:
        """Lets training keep of the encoders' blocks only what goes in, and compute the rest again on the way back."""
        for stage in self.image_encoder.layers:
            for block in stage.blocks:
                block.recompute()
        for layer in self.text_encoder.encoder.layer:
            layer.recompute()

    def construct(self, image: Tensor, token_ids: Tensor, token_mask: Tensor) -> Tensor:
        return self.training_outputs(image, token_ids, token_mask)[0]

    def training_outputs(self, image: Tensor, token_ids: Tensor, token_mask: Tensor):
        """What the losses need: logits (B, H, W) float32; Y_1 (B, d_s, H/4, W/4)."""
        stages, fused, sentence, _ = self.encode(image, token_ids, token_mask)
        pixels = self.seg_head(fused, stages)
        if self.has_sma:
            mask = self.sma(self.mask_generator(self._tokens(fused)), pixels, sentence)[0]
        else:
            mask = self.mask_proj(pixels).astype("float32").squeeze(1)
        return self._full_size(mask), pixels

    def predict_all(self, image: Tensor, token_ids: Tensor, token_mask: Tensor):
        """What pictures need as well.

        Returns: logits (B, H, W); Y_1 (B, d_s, H/4, W/4); Y_N (B, N, H/4, W/4), logits; Q_w (B, N); for each stage
        with WPA its attentions and the mean openings of its gates: pixels over words (B, H_iW_i, T), words over pixels
        (B, T, H_iW_i), to pixels (B,), to words (B,); in one direction the second and the last are None. Without SMA
        the mask itself is the one proposal, and its weight is 1.
        """
        stages, fused, sentence, alignments = self.encode(image, token_ids, token_mask)
        pixels = self.seg_head(fused, stages)
        if self.has_sma:
            mask, weights, embeddings = self.sma(self.mask_generator(self._tokens(fused)), pixels, sentence)
            proposals = self.sma.masks(embeddings, pixels)
        else:
            proposals = self.mask_proj(pixels).astype("float32")
            mask = proposals.squeeze(1)
            weights = ops.ones((mask.shape[0], 1), mindspore.float32)
        return self._full_size(mask), pixels, proposals, weights, alignments

    def encode(self, image: Tensor, token_ids: Tensor, token_mask: Tensor):
        """Encoder (3.2), Eq 1-8.

        Returns: V_1 … V_4 (B, C_i, H_i, W_i), before fusion; S_o (B, C_o, H_o, W_o); L_g (B, D); what predict_all
        says of the stages with WPA.
        """
        bias = padding_bias(token_mask)
        pixels = self.image_encoder.patch_embed(image)
        words = self.text_encoder.embeddings(token_ids)
        stages = []
        alignments = []
        for i in range(4):
            stages.append(self._map(pixels, self.sides[i]))
            pixels, words, over_words, over_pixels, to_pixels, to_words = self.wpa[i](pixels, words, token_mask)
            if self.aligned[i]:
                alignments.append((over_words, over_pixels, to_pixels, to_words))
            pixels = self.image_encoder.layers[i](pixels)
            words = self.text_encoder.stage(words, bias, i + 1)
        fused = self.cross_attention(self.image_encoder.norm(pixels), words, token_mask)
        return stages, self._map(fused, self.sides[3]), words[:, 0], alignments

    def _full_size(self, mask: Tensor) -> Tensor:
        """M (B, H/4, W/4) -> (B, H, W) float32."""
        return self.upsample(mask.astype("float32").expand_dims(1)).squeeze(1)

    @staticmethod
    def _map(tokens: Tensor, side: int) -> Tensor:
        """(B, side^2, C) -> (B, C, side, side)."""
        batch, _, dim = tokens.shape
        return tokens.swapaxes(1, 2).reshape(batch, dim, side, side)

    @staticmethod
    def _tokens(image: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, hw, C)."""
        batch, dim = image.shape[:2]
        return image.reshape(batch, dim, -1).swapaxes(1, 2)
