"""Mask generator (paper, Eq 9)."""

from __future__ import annotations

from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import TruncatedNormal, initializer

from coupalign.model.layers import INIT_STD, MultiHeadAttention, dense


class Attention(nn.Cell):
    """Multi-head attention with its four projections.

    Inputs: query (B, N, dim); source (B, S, dim), for keys and values. Outputs: (B, N, dim).
    """

    def __init__(self, *, dim: int, heads: int):
        super().__init__()
        self.attend = MultiHeadAttention(heads)
        self.query = dense(dim, dim)
        self.key = dense(dim, dim)
        self.value = dense(dim, dim)
        self.output = dense(dim, dim)

    def construct(self, query: Tensor, source: Tensor) -> Tensor:
        return self.output(self.attend(self.query(query), self.key(source), self.value(source)))


class DecoderLayer(nn.Cell):
    """A post-norm transformer decoder layer: self-attention, cross-attention, feed-forward with ReLU.

    Inputs: queries (B, N, dim); memory (B, S, dim). Outputs: (B, N, dim).
    """

    def __init__(self, *, dim: int, heads: int, ffn_dim: int):
        super().__init__()
        self.self_attention = Attention(dim=dim, heads=heads)
        self.cross_attention = Attention(dim=dim, heads=heads)
        self.fc1 = dense(dim, ffn_dim)
        self.fc2 = dense(ffn_dim, dim)
        self.norm1 = nn.LayerNorm((dim,), epsilon=1e-5)
        self.norm2 = nn.LayerNorm((dim,), epsilon=1e-5)
        self.norm3 = nn.LayerNorm((dim,), epsilon=1e-5)

    def construct(self, queries: Tensor, memory: Tensor) -> Tensor:
        queries = self.norm1(queries + self.self_attention(queries, queries))
        queries = self.norm2(queries + self.cross_attention(queries, memory))
        return self.norm3(queries + self.fc2(ops.relu(self.fc1(queries))))


class MaskGenerator(nn.Cell):
    """``Q_o = MaskGenerator(Q, S_o)`` (Eq 9): a transformer decoder turns learned queries into N mask embeddings.

    C_o is ``image_dim``, d_q is ``dim``, N is ``num_queries``.

    Inputs: pixels S_o (B, H_oW_o, C_o). Outputs: Q_o (B, N, d_q).
    """

    def __init__(self, *, image_dim: int, dim: int, num_queries: int, layers: int, heads: int, ffn_dim: int):
        super().__init__()
        self.queries = Parameter(initializer(TruncatedNormal(INIT_STD), (num_queries, dim)))
        self.memory_proj = dense(image_dim, dim)
        self.layers = nn.CellList([DecoderLayer(dim=dim, heads=heads, ffn_dim=ffn_dim) for _ in range(layers)])

    def construct(self, pixels: Tensor) -> Tensor:
        memory = self.memory_proj(pixels)
        queries = ops.expand_dims(self.queries, 0).astype(memory.dtype)
        queries = queries.broadcast_to((pixels.shape[0],) + self.queries.shape)
        for layer in self.layers:
            queries = layer(queries, memory)
        return queries
