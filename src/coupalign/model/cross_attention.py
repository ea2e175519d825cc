"""Cross attention over the encoders' outputs (paper, Eq 7, 8)."""

from __future__ import annotations

from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import TruncatedNormal, initializer

from coupalign.model.layers import INIT_STD, ScaledDotProductAttention, dense, padding_bias


class CrossAttention(nn.Cell):
    """``F_o = [V_o W^v + e_p; L_o W^l]`` (Eq 7); ``S_o = Attention(F_o) + V_o`` (Eq 8), image rows only.

    Queries: pixels. Keys and values: pixels and unpadded words. C_o is ``image_dim``, D is ``dim``.

    With ``normed`` the attended features are layer-normalised before V_o is added (docs/sma.md); false as printed.

    Inputs: pixels V_o (B, H_oW_o, C_o); words L_o (B, T, D); token_mask (B, T), 1 for a real token.
    Outputs: S_o (B, H_oW_o, C_o).
    """

    def __init__(self, *, image_dim: int, dim: int, num_pixels: int, heads: int, normed: bool = False):
        super().__init__()
        self.normed = normed
        if normed:
            self.output_norm = nn.LayerNorm((image_dim,), epsilon=1e-5)
        self.attend = ScaledDotProductAttention(heads)
        self.image_proj = dense(image_dim, dim)
        self.text_proj = dense(dim, dim)
        self.position_embedding = Parameter(initializer(TruncatedNormal(INIT_STD), (1, num_pixels, dim)))
        self.query = dense(dim, dim)
        self.key = dense(dim, dim)
        self.value = dense(dim, dim)
        self.output = dense(dim, image_dim)

    def construct(self, pixels: Tensor, words: Tensor, token_mask: Tensor) -> Tensor:
        image = self.image_proj(pixels)
        image = image + self.position_embedding.astype(image.dtype)
        both = ops.concat((image, self.text_proj(words)), 1)  # Eq 7: F_o
        no_bias = ops.ones((1, 1, image.shape[1]), image.dtype).astype("float32") - 1.0
        word_bias = padding_bias(token_mask)
        bias = ops.concat((no_bias.broadcast_to((word_bias.shape[0], 1, image.shape[1])), word_bias), -1)
        fused = self.attend(self.query(image), self.key(both), self.value(both), bias)  # Eq 8
        if self.normed:
            return self.output_norm(self.output(fused)) + pixels
        return self.output(fused) + pixels
