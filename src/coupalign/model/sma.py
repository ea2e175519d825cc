"""Sentence-Mask Alignment (paper, Eq 11, 12)."""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from coupalign.model.layers import dense, l2_normalize


class SentenceMaskAlignment(nn.Cell):
    """Weights N mask proposals by their similarity to the sentence and sums them to the mask of the referent.

    ``as_printed`` shows Eq 11 and 12 in the paper's order; ``construct`` computes the same with less memory. All of it
    is float32, whatever the precision of the inputs: queries Q_o (B, N, d_q); pixels Y_1 (B, d_s, h, w); sentence L_g
    (B, D).

    Args:
        query_dim: d_q, width of Q_o.
        pixel_dim: d_s, width of Y_1.
        dim: D, width of the sentence and of the joint space.
        temperature: Temperature of the softmax over the queries; 1 as printed.
    """

    def __init__(self, *, query_dim: int, pixel_dim: int, dim: int, temperature: float = 1.0):
        super().__init__()
        self.temperature = temperature
        self.query_proj = dense(query_dim, dim)
        self.pixel_proj = dense(pixel_dim, dim)

    def as_printed(self, queries: Tensor, pixels: Tensor, sentence: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reference of the tests of ``construct``: M (B, h, w), Q_w (B, N), Y_N (B, N, h, w)."""
        q_hat = self.query_proj(queries).astype("float32")  # Q_o W^Q (B, N, D)
        y_hat = self.pixel_proj(pixels.transpose(0, 2, 3, 1)).astype("float32")  # Y_1 W^Y (B, h, w, D)
        cosine = ops.reduce_sum(l2_normalize(q_hat) * l2_normalize(ops.expand_dims(sentence, 1)), -1)
        weights = ops.softmax(cosine / self.temperature, axis=-1)  # Eq 11: Q_w
        batch, height, width, dim = y_hat.shape
        proposals = ops.matmul(q_hat, y_hat.reshape(batch, -1, dim).swapaxes(1, 2))  # Eq 12: Y_N
        mask = ops.reduce_sum(ops.expand_dims(weights, -1) * proposals, 1)  # Eq 12: M = Q_w Y_N
        return mask.reshape(batch, height, width), weights, proposals.reshape(batch, -1, height, width)

    def construct(self, queries: Tensor, pixels: Tensor, sentence: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Eq 11 and 12, with the sum over proposals taken first.

        Because Eq 12 is linear, ``M = (Q_w Q_o W^Q) (Y_1 W^Y)^T`` needs neither the N masks nor an (h, w, D) map.

        Returns:
            M (B, h, w), logits; Q_w (B, N), which sums to 1; mask embeddings Q_o W^Q (B, N, D).
        """
        embeddings = self.query_proj(queries).astype("float32")
        sentence = ops.expand_dims(l2_normalize(sentence.astype("float32")), -1)
        similarity = ops.matmul(l2_normalize(embeddings), sentence).squeeze(-1)
        weights = ops.softmax(similarity / self.temperature, axis=-1)  # Eq 11
        mixture = ops.matmul(ops.expand_dims(weights, 1), embeddings)  # Q_w Q_o W^Q
        return self.masks(mixture, pixels).squeeze(1), weights, embeddings

    def masks(self, embeddings: Tensor, pixels: Tensor) -> Tensor:
        """Masks of embeddings (B, N, D), Y_N of Eq 12 for those of the queries: (B, N, h, w).

        ``q (y W + b) = (q W) y + q b`` avoids projecting each pixel to width D.
        """
        batch, dim, height, width = pixels.shape
        kernel = ops.matmul(embeddings, self.pixel_proj.weight.astype("float32"))
        offset = ops.matmul(embeddings, ops.expand_dims(self.pixel_proj.bias.astype("float32"), -1))
        flat = pixels.reshape(batch, dim, height * width).astype("float32")
        return (ops.matmul(kernel, flat) + offset).reshape(batch, embeddings.shape[1], height, width)
