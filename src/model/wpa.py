"""Word-Pixel Alignment (paper, Eq 1, 2, 4, 5)."""
from __future__ import annotations

from mindspore import Tensor, nn, ops

from src.model.gate import Gate
from src.model.layers import dense, padding_bias


class WordPixelAlignment(nn.Cell):
    """Attention between words and pixels in both directions, each result gated before it is added.

    With ``v = V W^v`` and ``l = L W^l`` (Eq 4): ``Attn = v l^T / sqrt(d)``,
    ``L' = Gate(softmax(Attn) l W^l_hat)`` and ``V' = Gate(softmax(Attn^T) v W^v_hat)`` (Eq 5).
    The printed Eq 5 multiplies by L and V themselves, whose widths do not fit the second projections.

    Args:
        image_dim: C_i, width of the pixels of this stage.
        text_dim: D, width of the words.
        dim: d, width of the joint space.
        bidirectional: False leaves the words as they are (language-to-image only).
    """

    def __init__(self, *, image_dim: int, text_dim: int, dim: int, bidirectional: bool = True):
        super().__init__()
        self.bidirectional = bidirectional
        self.scale = dim ** -0.5
        self.image_proj = dense(image_dim, dim)
        self.text_proj = dense(text_dim, dim)
        self.text_to_image = dense(dim, image_dim)
        self.image_gate = Gate(image_dim)
        if bidirectional:
            self.image_to_text = dense(dim, text_dim)
            self.text_gate = Gate(text_dim)

    def construct(self, pixels: Tensor, words: Tensor, token_mask: Tensor):
        """Fuse one stage.

        Args: pixels V_i (B, P, C_i); words L_i (B, T, D); token_mask (B, T), 1 for a real token.
        Returns: V_i + L'_i; L_i + V'_i; attention of pixels over words (B, P, T) float32; attention of words
            over pixels (B, T, P) float32, None in one direction; how far the gates are open to pixels and to words,
            (B,) float32 from 0 to 1 each, means of their openings' magnitudes (real words only), None in one direction.
        """
        joint_pixels = self.image_proj(pixels)
        joint_words = self.text_proj(words)
        scores = ops.matmul((joint_pixels * self.scale).astype("float32"),
                            joint_words.swapaxes(1, 2).astype("float32"))
        over_words = ops.softmax(scores + padding_bias(token_mask), axis=-1)
        fused = self.text_to_image(ops.matmul(over_words.astype(joint_words.dtype), joint_words))
        gated, opening = self.image_gate(fused)
        pixels = pixels + gated
        to_pixels = _magnitude(opening).mean(1)
        if not self.bidirectional:
            return pixels, words, over_words, None, to_pixels, None
        over_pixels = ops.softmax(scores.swapaxes(1, 2), axis=-1)
        fused = self.image_to_text(ops.matmul(over_pixels.astype(joint_pixels.dtype), joint_pixels))
        gated, opening = self.text_gate(fused)
        real = token_mask.astype("float32")
        to_words = (_magnitude(opening) * real).sum(1) / real.sum(1)
        words = words + gated * ops.expand_dims(token_mask, -1).astype(words.dtype)
        return pixels, words, over_words, over_pixels, to_pixels, to_words


class NoAlignment(nn.Cell):
    """Stands where a stage has no Word-Pixel Alignment: nothing is added and there are no parameters."""

    def construct(self, pixels: Tensor, words: Tensor, token_mask: Tensor):
        """Returns pixels and words as they came."""
        return pixels, words, None, None, None, None


def _magnitude(opening: Tensor) -> Tensor:
    """Mean magnitude of a gate's channels: (B, L, C) -> (B, L) float32."""
    return ops.abs(opening.astype("float32")).mean(-1)
