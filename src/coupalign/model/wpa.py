"""Word-Pixel Alignment (paper, Eq 1, 2, 4, 5)."""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from coupalign.model.gate import Gate
from coupalign.model.layers import dense, padding_bias


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
        self.scale = dim**-0.5
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
        joint = self.text_proj(words)
        # (V W^v) l^T = V (l W^v)^T: some thirty words go through W^v, and back through W^l_hat, instead of all pixels.
        asking = joint * self.scale
        keys = _times(asking, self.image_proj.weight)
        offset = _times(asking, ops.expand_dims(self.image_proj.bias, 1)).swapaxes(1, 2)
        scores = ops.matmul(pixels.astype("float32"), keys.swapaxes(1, 2).astype("float32"))
        over_words = ops.softmax(scores + (offset.astype("float32") + padding_bias(token_mask)), axis=-1)
        values = _times(joint, self.text_to_image.weight.swapaxes(0, 1))
        fused = ops.matmul(over_words.astype(values.dtype), values) + self.text_to_image.bias.astype(values.dtype)
        gated, opening = self.image_gate(fused)
        updated = pixels + gated
        to_pixels = _magnitude(opening).mean(1)
        if not self.bidirectional:
            return updated, words, over_words, None, to_pixels, None
        # A word's offset is the same for all pixels, so this softmax does not see it; nor, as weights sum to 1, does W^v
        # mind whether it comes before or after their sum.
        over_pixels = ops.softmax(scores.swapaxes(1, 2), axis=-1)
        seen = ops.matmul(over_pixels.astype(joint.dtype), pixels.astype(joint.dtype))
        # Not image_proj(seen): of a weight that two products share, MindSpore Lite 2.0 turns the one for both.
        seen = _times(seen, self.image_proj.weight.swapaxes(0, 1)) + self.image_proj.bias.astype(seen.dtype)
        gated, opening = self.text_gate(self.image_to_text(seen))
        real = token_mask.astype("float32")
        to_words = (_magnitude(opening) * real).sum(1) / real.sum(1)
        words = words + gated * ops.expand_dims(token_mask, -1).astype(words.dtype)
        return updated, words, over_words, over_pixels, to_pixels, to_words


class NoAlignment(nn.Cell):
    """Stands where a stage has no Word-Pixel Alignment: nothing is added and there are no parameters."""

    def construct(self, pixels: Tensor, words: Tensor, token_mask: Tensor):
        """Returns pixels and words as they came."""
        return pixels, words, None, None, None, None


def _times(x: Tensor, weight: Tensor) -> Tensor:
    """x (B, T, n) times weight (n, m), as one product: of a batch of them, MindSpore would copy the weight."""
    batch, length, dim = x.shape
    return ops.matmul(x.reshape(-1, dim), weight.astype(x.dtype)).reshape(batch, length, -1)


def _magnitude(opening: Tensor) -> Tensor:
    """Mean magnitude of a gate's channels: (B, L, C) -> (B, L) float32."""
    return ops.abs(opening.astype("float32")).mean(-1)
