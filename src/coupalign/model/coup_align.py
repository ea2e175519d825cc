"""CoupAlign (Zhang et al., NeurIPS 2022): the modules coupled as in Figure 2 (paper, Eq 1 to 12)."""

from __future__ import annotations

from typing import NamedTuple

import mindspore
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import TruncatedNormal

from coupalign.model.bert import BertModel
from coupalign.model.cross_attention import CrossAttention
from coupalign.model.existence import Existence
from coupalign.model.layers import INIT_STD, conv, padding_bias
from coupalign.model.mask_generator import MaskGenerator
from coupalign.model.resize import Upsample
from coupalign.model.seg_head import SegHead
from coupalign.model.sma import SentenceMaskAlignment
from coupalign.model.swin import SwinTransformer
from coupalign.model.wpa import Alignment, WordPixelAlignment


class Outputs(NamedTuple):
    """Everything the model computes for a batch; all float32 in ``precision: fp32``.

    Attributes:
        logits: M at the size of the image, before the sigmoid, (B, H, W).
        pixel_features: Y_1 (B, d_s, H/4, W/4).
        proposals: Y_N, logits of the N mask proposals, (B, N, H/4, W/4). Without SMA the mask is the only one.
        weights: Q_w, weight of each proposal, (B, N). Without SMA it is 1.
        alignments: One for each stage that has Word-Pixel Alignment, first stage first.
        existence: Logit of "something fits the expression", (B,); None for a model without this output.
    """

    logits: Tensor
    pixel_features: Tensor
    proposals: Tensor
    weights: Tensor
    alignments: list[Alignment]
    existence: Tensor | None = None

    @classmethod
    def from_tuple(cls, outputs: tuple) -> Outputs:
        """Names what ``CoupAlign.all_outputs`` returned; alignments in one direction come without their None."""
        alignments = [each if len(each) == 4 else (each[0], None, each[1], None) for each in outputs[4]]
        logits, pixels, proposals, weights = outputs[:4]
        return cls(logits, pixels, proposals, weights, [Alignment(*each) for each in alignments], *outputs[5:])


class CoupAlign(nn.Cell):
    """Referring image segmentation: an image and an expression give the mask of the referent.

    ``coupalign.model.build_model`` makes the modules from a configuration.

    Args:
        wpa: Word-Pixel Alignment before each of the four stages; None for a stage without it.
        mask_generator: None without ``sma``.
        sma: Sentence-Mask Alignment; None makes the mask a 1x1 convolution of Y_1.
        existence: Output of whether anything fits the expression; None as printed.
        seg_head_dim: d_s, width of Y_1.
        image_size: Height and width of the image, H = W.

    Inputs: image (B, 3, H, W) float32, normalised RGB; token_ids (B, T) int32; token_mask (B, T) int32, 1 for a
    real token. Outputs: logits (B, H, W) float32, before the sigmoid; with ``existence`` a pair of them and the logit
    of "something fits the expression", (B,) float32.
    """

    def __init__(
        self,
        *,
        image_encoder: SwinTransformer,
        text_encoder: BertModel,
        wpa: list[WordPixelAlignment | None],
        cross_attention: CrossAttention,
        mask_generator: MaskGenerator | None,
        seg_head: SegHead,
        sma: SentenceMaskAlignment | None,
        existence: Existence | None = None,
        seg_head_dim: int,
        image_size: int,
    ):
        super().__init__()
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        self.wpa = nn.CellList([stage or nn.Identity() for stage in wpa])  # holds Cells only
        self.has_wpa = [stage is not None for stage in wpa]
        self.cross_attention = cross_attention
        self.seg_head = seg_head
        self.has_sma = sma is not None
        if self.has_sma:
            self.mask_generator = mask_generator
            self.sma = sma
        else:
            # Initialised as W^Y is. He initialisation, meant for a following ReLU, would give large first logits.
            self.mask_proj = conv(seg_head_dim, 1, 1, weight_init=TruncatedNormal(INIT_STD))
        self.has_existence = existence is not None
        if self.has_existence:
            self.existence = existence
        self.upsample = Upsample(size=image_size // 4, factor=4)
        self.sizes = [image_size // 4 // 2**i for i in range(4)]

    def recompute_blocks(self) -> None:
        """Saves memory in training: only the inputs of the encoders' blocks are kept, the rest is computed twice."""
        for stage in self.image_encoder.layers:
            for block in stage.blocks:
                block.recompute()
        for layer in self.text_encoder.encoder.layer:
            layer.recompute()

    def construct(self, image: Tensor, token_ids: Tensor, token_mask: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        outputs = self.training_outputs(image, token_ids, token_mask)
        if self.has_existence:
            return outputs[0], outputs[-1]
        return outputs[0]

    def training_outputs(self, image: Tensor, token_ids: Tensor, token_mask: Tensor) -> tuple[Tensor, ...]:
        """The inputs of the losses: logits (B, H, W) float32; Y_1 (B, d_s, H/4, W/4); existence logit (B,) if any."""
        stages, fused, words, _ = self.encode(image, token_ids, token_mask)
        mask, pixels, _, _ = self.decode(stages, fused, words[-1])
        return self._with_existence((self.upsample(mask).squeeze(1), pixels), mask, pixels, words[-1])

    def all_outputs(self, image: Tensor, token_ids: Tensor, token_mask: Tensor) -> tuple:
        """The values of ``Outputs`` as plain tuples, which graph mode and MindIR support: ``Outputs.from_tuple``."""
        stages, fused, words, alignments = self.encode(image, token_ids, token_mask)
        mask, pixels, weights, embeddings = self.decode(stages, fused, words[-1])
        proposals = self.sma.masks(embeddings, pixels) if self.has_sma else mask
        outputs = (self.upsample(mask).squeeze(1), pixels, proposals, weights, alignments)
        return self._with_existence(outputs, mask, pixels, words[-1])

    def proposal_outputs(self, image: Tensor, token_ids: Tensor, token_mask: Tensor) -> tuple:
        """As ``training_outputs``, with Y_N (B, N, H/4, W/4) and Q_w (B, N) after Y_1, for set prediction."""
        stages, fused, words, _ = self.encode(image, token_ids, token_mask)
        mask, pixels, weights, embeddings = self.decode(stages, fused, words[-1])
        outputs = (self.upsample(mask).squeeze(1), pixels, self.sma.masks(embeddings, pixels), weights)
        return self._with_existence(outputs, mask, pixels, words[-1])

    def encode(self, image: Tensor, token_ids: Tensor, token_mask: Tensor) -> tuple:
        """Encoder (3.2), Eq 1 to 8.

        Returns:
            V_1 … V_4 before fusion, (B, C_i, H_i, W_i), and V_o; S_o (B, H_oW_o, C_o); L_1 … L_4 before fusion, and
            L_o, (B, T, D); for each stage with Word-Pixel Alignment the values of its ``Alignment``, without None.
        """
        bias = padding_bias(token_mask)
        pixels = self.image_encoder.patch_embed(image)  # V_1
        words = self.text_encoder.embeddings(token_ids)  # L_1
        stages, texts, alignments = [], [], []
        for i in range(4):  # stages 1 to 4 of the paper
            stages.append(_to_map(pixels, self.sizes[i]))
            texts.append(words)
            if self.has_wpa[i]:
                pixels, words, alignment = self.wpa[i](pixels, words, token_mask)  # Eq 1, 2: V_i + L'_i, L_i + V'_i
                # MindSpore fails to compile a graph that returns None if it also has our CPU kernels.
                alignments.append((alignment[0], alignment[2]) if alignment[1] is None else alignment)
            pixels = self.image_encoder.layers[i](pixels)  # Eq 3: V_{i+1}
            words = self.text_encoder.stage(words, bias, i)  # Eq 3: L_{i+1}
        pixels = self.image_encoder.norm(pixels)  # V_o
        stages.append(_to_map(pixels, self.sizes[3]))
        texts.append(words)
        return stages, self.cross_attention(pixels, words, token_mask), texts, tuple(alignments)  # Eq 7, 8: S_o

    def decode(self, stages: list[Tensor], fused: Tensor, words: Tensor) -> tuple:
        """Decoder (3.3), Eq 9 to 12, from the first two values of ``encode`` and L_o, whose [CLS] row is L_g.

        Returns:
            M (B, 1, H/4, W/4) float32; Y_1 (B, d_s, H/4, W/4); Q_w (B, N); mask embeddings Q_o W^Q (B, N, D). Without
            SMA the last two stand for one mask of weight 1.
        """
        pixels = self.seg_head(_to_map(fused, self.sizes[3]), stages)  # Eq 10: Y_1
        if self.has_sma:
            queries = self.mask_generator(fused)  # type: ignore[misc]  # Eq 9: Q_o
            mask, weights, embeddings = self.sma(queries, pixels, words[:, 0])  # type: ignore[misc]  # Eq 11, 12
            return mask.expand_dims(1), pixels, weights, embeddings
        one = ops.ones((pixels.shape[0], 1), mindspore.float32)
        return self.mask_proj(pixels).astype("float32"), pixels, one, one

    def _with_existence(self, outputs: tuple, mask: Tensor, pixels: Tensor, words: Tensor) -> tuple:
        """`outputs`, with the existence logit (B,) at the end if the model has one."""
        if self.has_existence:
            return outputs + (self.existence(mask, pixels, words[:, 0]),)  # type: ignore[misc]
        return outputs


def _to_map(tokens: Tensor, size: int) -> Tensor:
    """(B, size^2, C) -> (B, C, size, size)."""
    batch, _, dim = tokens.shape
    return tokens.swapaxes(1, 2).reshape(batch, dim, size, size)
