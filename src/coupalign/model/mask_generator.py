"""Mask generator (paper, Eq 9)."""

from __future__ import annotations

from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import TruncatedNormal, initializer

from coupalign.model.layers import INIT_STD, ScaledDotProductAttention, dense, token_norm
from coupalign.model.positions import anchor_points, grid_points, sine_encoding


class MultiHeadAttention(nn.Cell):
    """Multi-head attention with its four projections.

    Inputs: query (B, N, dim); source (B, S, dim), for keys and values; positions (N, dim) and (S, dim), added to
    queries and keys, or None. Outputs: (B, N, dim).
    """

    def __init__(self, *, dim: int, heads: int):
        super().__init__()
        self.attend = ScaledDotProductAttention(heads)
        self.query = dense(dim, dim)
        self.key = dense(dim, dim)
        self.value = dense(dim, dim)
        self.output = dense(dim, dim)

    def construct(self, query: Tensor, source: Tensor, query_positions=None, key_positions=None) -> Tensor:
        keys = source
        if query_positions is not None:
            query, keys = query + query_positions.astype(query.dtype), source + key_positions.astype(source.dtype)
        return self.output(self.attend(self.query(query), self.key(keys), self.value(source)))


class DecoderLayer(nn.Cell):
    """A post-norm transformer decoder layer: self-attention, cross-attention, feed-forward with ReLU.

    Inputs: queries (B, N, dim); memory (B, S, dim). Outputs: (B, N, dim).
    """

    def __init__(self, *, dim: int, heads: int, ffn_dim: int):
        super().__init__()
        self.self_attention = MultiHeadAttention(dim=dim, heads=heads)
        self.cross_attention = MultiHeadAttention(dim=dim, heads=heads)
        self.fc1 = dense(dim, ffn_dim)
        self.fc2 = dense(ffn_dim, dim)
        self.norm1 = nn.LayerNorm((dim,), epsilon=1e-5)
        self.norm2 = nn.LayerNorm((dim,), epsilon=1e-5)
        self.norm3 = nn.LayerNorm((dim,), epsilon=1e-5)

    def construct(self, queries: Tensor, memory: Tensor, query_positions=None, key_positions=None) -> Tensor:
        queries = self.norm1(queries + self.self_attention(queries, queries, query_positions, query_positions))
        queries = self.norm2(queries + self.cross_attention(queries, memory, query_positions, key_positions))
        return self.norm3(queries + self.fc2(ops.relu(self.fc1(queries))))


class MaskGenerator(nn.Cell):
    """``Q_o = MaskGenerator(Q, S_o)`` (Eq 9): a transformer decoder turns learned queries into N mask embeddings.

    The paper leaves open how queries and positions enter. As printed, queries enter the first layer only and pixels
    have no positions. With ``anchored`` (docs/sma.md) queries start as the sine encodings of anchor points and are
    added in each layer, keys have the encodings of their places, and the projections of both are equal at first: each
    query attends to the surroundings of its anchor from the first step on.

    C_o is ``image_dim``, d_q is ``dim``, N is ``num_queries``.

    Args:
        anchored: Height and width of the map S_o; 0 for the printed form.

    Inputs: pixels S_o (B, H_oW_o, C_o). Outputs: Q_o (B, N, d_q).
    """

    def __init__(
        self, *, image_dim: int, dim: int, num_queries: int, layers: int, heads: int, ffn_dim: int, anchored: int = 0
    ):
        super().__init__()
        self.anchored = anchored > 0
        self.queries = Parameter(initializer(TruncatedNormal(INIT_STD), (num_queries, dim)))
        self.memory_proj = dense(image_dim, dim)
        self.layers = nn.CellList([DecoderLayer(dim=dim, heads=heads, ffn_dim=ffn_dim) for _ in range(layers)])
        if anchored:
            self.key_positions = Tensor(sine_encoding(grid_points(anchored), dim, heads))
            self.queries.set_data(Tensor(sine_encoding(anchor_points(num_queries), dim, heads)))

    def construct(self, pixels: Tensor) -> Tensor:
        memory = self.memory(pixels)
        queries = ops.expand_dims(self.queries, 0).astype(memory.dtype)
        queries = queries.broadcast_to((pixels.shape[0],) + self.queries.shape)
        for layer in self.layers:
            if self.anchored:
                queries = layer(queries, memory, self.queries, self.key_positions)
            else:
                queries = layer(queries, memory)
        return queries

    def memory(self, pixels: Tensor) -> Tensor:
        """What the queries attend to, from S_o: (B, H_oW_o, d_q)."""
        return self.memory_proj(token_norm(pixels) if self.anchored else pixels)
