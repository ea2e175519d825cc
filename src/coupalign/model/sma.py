"""Sentence-Mask Alignment (paper, Eq 11, 12)."""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from coupalign.model.layers import dense, unit


class SentenceMaskAlignment(nn.Cell):
    """Weighs the N mask proposals by the sentence and adds them up.

    ``Q_w = softmax(cos(L_g, Q_o W^Q) / temperature)`` and ``M = Q_w (Q_o W^Q) (Y_1 W^Y)^T``. The sum over
    proposals is taken first, which makes M one product of width d_s; the N masks are made only when asked for.
    All of it is float32, whatever the precision of the inputs.

    Args:
        query_dim: d_q, width of Q_o.
        pixel_dim: d_s, width of Y_1.
        dim: D, width of the sentence and of the joint space.
        temperature: 1 as printed.
    """

    def __init__(self, *, query_dim: int, pixel_dim: int, dim: int, temperature: float = 1.0):
        super().__init__()
        self.temperature = temperature
        self.query_proj = dense(query_dim, dim)
        self.pixel_proj = dense(pixel_dim, dim)

    def construct(self, queries: Tensor, pixels: Tensor, sentence: Tensor):
        """Align.

        Args: queries Q_o (B, N, d_q); pixels Y_1 (B, d_s, h, w); sentence L_g (B, D).
        Returns: M (B, h, w), logits; Q_w (B, N), sums to 1; embeddings Q_o W^Q (B, N, D); all float32.
        """
        embeddings = self.query_proj(queries).astype("float32")
        similarity = ops.matmul(unit(embeddings), ops.expand_dims(unit(sentence.astype("float32")), -1)).squeeze(-1)
        weights = ops.softmax(similarity / self.temperature, axis=-1)
        mixture = ops.matmul(ops.expand_dims(weights, 1), embeddings)
        return self.masks(mixture, pixels).squeeze(1), weights, embeddings

    def masks(self, embeddings: Tensor, pixels: Tensor) -> Tensor:
        """Y_N of Eq 12: embeddings (B, N, D) against every pixel of Y_1 (B, d_s, h, w) -> (B, N, h, w) float32."""
        batch, dim, height, width = pixels.shape
        kernel = ops.matmul(embeddings, self.pixel_proj.weight.astype("float32"))
        offset = ops.matmul(embeddings, ops.expand_dims(self.pixel_proj.bias.astype("float32"), -1))
        flat = pixels.reshape(batch, dim, height * width).astype("float32")
        return (ops.matmul(kernel, flat) + offset).reshape(batch, embeddings.shape[1], height, width)
