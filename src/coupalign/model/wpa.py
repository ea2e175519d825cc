"""Word-Pixel Alignment (paper, Eq 1, 2, 4, 5; its gate, Eq 6, is in gate.py)."""

from __future__ import annotations

from typing import NamedTuple

from mindspore import Tensor, nn, ops

from coupalign.model.gate import Gate
from coupalign.model.layers import dense, padding_bias, token_norm


class Alignment(NamedTuple):
    """What one Word-Pixel Alignment attended to; all float32.

    Attributes:
        over_words: Attention of each pixel over the words, (B, P, T).
        over_pixels: Attention of each word over the pixels, (B, T, P); None if only pixels are updated.
        image_gate: Mean magnitude of the gate on the pixels, 0 to 1, (B,).
        text_gate: Mean magnitude of the gate on the real words, 0 to 1, (B,); None if only pixels are updated.
    """

    over_words: Tensor
    over_pixels: Tensor | None
    image_gate: Tensor
    text_gate: Tensor | None


class WordPixelAlignment(nn.Cell):
    """Attention between words and pixels in both directions. Each result passes a gate before it is added.

    The printed Eq 5 multiplies by L and V, whose widths do not fit the second projections. It is read with the
    projected features of Eq 4 as values. ``as_printed`` shows Eq 4 and 5 in the paper's order; ``attend``, which the
    model uses, computes the same with fewer multiplications.

    Args:
        image_dim: C_i, width of the pixels of this stage.
        text_dim: D, width of the words.
        dim: d, width of the joint space.
        bidirectional: If false, only pixels are updated (language to image).
        normed: Whether attention compares tokens without what they have in common (``token_norm``), and the attended
            features are layer-normalised before their gates, so that they stay in proportion to what they are added to
            (docs/sma.md). False as printed.
    """

    def __init__(self, *, image_dim: int, text_dim: int, dim: int, bidirectional: bool = True, normed: bool = False):
        super().__init__()
        self.normed = normed
        self.bidirectional = bidirectional
        self.scale = dim**-0.5
        self.image_proj = dense(image_dim, dim)
        self.text_proj = dense(text_dim, dim)
        self.text_to_image = dense(dim, image_dim)
        self.image_gate = Gate(image_dim)
        if normed:
            self.text_to_image_norm = nn.LayerNorm((image_dim,), epsilon=1e-5)
        if bidirectional:
            self.image_to_text = dense(dim, text_dim)
            self.text_gate = Gate(text_dim)
            if normed:
                self.image_to_text_norm = nn.LayerNorm((text_dim,), epsilon=1e-5)

    def construct(self, pixels: Tensor, words: Tensor, token_mask: Tensor):
        """Eq 1 and 2: adds the gated features of ``attend`` to pixels V_i (B, P, C_i) and words L_i (B, T, D).

        Returns:
            V_i + L'_i; L_i + V'_i; the four values of ``Alignment``. They are plain tuples, because graph mode of
            MindSpore 2.9 silently gives zero gradients for a NamedTuple.
        """
        if self.normed:
            to_image, to_text, over_words, over_pixels = self.attend(
                token_norm(pixels), token_norm(words, token_mask), token_mask
            )
            to_image = self.text_to_image_norm(to_image).astype(to_image.dtype)
            if self.bidirectional:
                to_text = self.image_to_text_norm(to_text).astype(to_text.dtype)
        else:
            to_image, to_text, over_words, over_pixels = self.attend(pixels, words, token_mask)
        gated, gate = self.image_gate(to_image)  # Eq 2, 6: L'_i
        updated = pixels + gated
        image_gate = _magnitude(gate).mean(1)
        if not self.bidirectional:
            return updated, words, (over_words, None, image_gate, None)
        gated, gate = self.text_gate(to_text)  # Eq 2, 6: V'_i
        real = token_mask.astype("float32")
        text_gate = (_magnitude(gate) * real).sum(1) / real.sum(1)
        words = words + gated.astype(words.dtype) * ops.expand_dims(token_mask, -1).astype(words.dtype)
        return updated, words, (over_words, over_pixels, image_gate, text_gate)

    def as_printed(self, pixels: Tensor, words: Tensor, token_mask: Tensor):
        """Reference of the tests of ``attend``, with the same arguments and results."""
        v = self.image_proj(pixels)  # V_i W^v (B, P, d)
        l = self.text_proj(words)  # L_i W^l (B, T, d)  # noqa: E741
        scores = ops.matmul(v, l.swapaxes(1, 2)) * self.scale  # Eq 4: Attn (B, P, T)
        over_words = ops.softmax(scores + padding_bias(token_mask), axis=-1)
        over_pixels = ops.softmax(scores.swapaxes(1, 2), axis=-1)
        to_image = self.text_to_image(ops.matmul(over_words, l))  # Eq 5: softmax(Attn) l, then the second projection
        to_text = self.image_to_text(ops.matmul(over_pixels, v))  # Eq 5: softmax(Attn^T) v, then the second projection
        return to_image, to_text, over_words, over_pixels

    def attend(self, pixels: Tensor, words: Tensor, token_mask: Tensor):
        """Eq 4 and 5, with the projections moved from the many pixels to the thirty words.

        With biases b, ``(V W^v + b) l^T = V (l W^v^T)^T + b l^T`` and ``A l W^l = A (l W^l)``, so no pixel is
        projected: a fifteenth of the multiplications in stage 1 of the paper's model.

        Returns:
            L'_i before its gate (B, P, C_i); V'_i before its gate (B, T, D); attention of pixels over words (B, P, T)
            float32; attention of words over pixels (B, T, P) float32. In one direction the second and last are None.
        """
        l = self.text_proj(words)  # noqa: E741
        scaled = l * self.scale
        keys = _matmul(scaled, self.image_proj.weight)  # l W^v^T
        offset = _matmul(scaled, ops.expand_dims(self.image_proj.bias, 1)).swapaxes(1, 2)  # b l^T
        # Eq 4 without its offset, which softmax over pixels does not need: it is the same for all pixels.
        scores = ops.matmul(pixels.astype("float32"), keys.swapaxes(1, 2).astype("float32"))
        over_words = ops.softmax(scores + (offset.astype("float32") + padding_bias(token_mask)), axis=-1)
        # Eq 5: L'_i
        values = _matmul(l, self.text_to_image.weight.swapaxes(0, 1))
        to_image = ops.matmul(over_words.astype(values.dtype), values) + self.text_to_image.bias.astype(values.dtype)
        if not self.bidirectional:
            return to_image, None, over_words, None
        # Eq 5: V'_i. The weights of each word sum to 1, so W^v and its bias can follow the weighted sum.
        over_pixels = ops.softmax(scores.swapaxes(1, 2), axis=-1)
        mean = ops.matmul(over_pixels.astype(l.dtype), pixels.astype(l.dtype))
        # Not image_proj(mean): MindSpore Lite 2.0 transposes a weight that two products share for both of them.
        v = _matmul(mean, self.image_proj.weight.swapaxes(0, 1)) + self.image_proj.bias.astype(mean.dtype)
        return to_image, self.image_to_text(v), over_words, over_pixels


def _matmul(x: Tensor, weight: Tensor) -> Tensor:
    """x (B, T, n) times weight (n, m) as a product of two matrices; batched, MindSpore would copy the weight."""
    batch, length, dim = x.shape
    return ops.matmul(x.reshape(-1, dim), weight.astype(x.dtype)).reshape(batch, length, -1)


def _magnitude(gate: Tensor) -> Tensor:
    """Mean magnitude of a gate over its channels: (B, L, C) -> (B, L) float32."""
    return ops.abs(gate.astype("float32")).mean(-1)
