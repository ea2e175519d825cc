"""Text encoder: BERT (Devlin et al., NAACL 2019), a quarter of its layers per stage (paper, 3.2 and Eq 3).

Cells and parameters have the names of Hugging Face. x is (B, T, D) and the padding bias (B, 1, T) everywhere.
"""

from __future__ import annotations

from mindspore import Tensor, nn, ops
from mindspore.common.initializer import TruncatedNormal

from coupalign.model.dropout import Dropout
from coupalign.model.layers import INIT_STD, Gelu, ScaledDotProductAttention, dense

EPSILON = 1e-12


class BertEmbeddings(nn.Cell):
    """Sum of word, position and segment 0 embeddings, normalised. Inputs: ids (B, T). Outputs: (B, T, D)."""

    def __init__(self, *, vocab_size: int, dim: int, max_positions: int, dropout: float):
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, dim, embedding_table=TruncatedNormal(INIT_STD))
        self.position_embeddings = nn.Embedding(max_positions, dim, embedding_table=TruncatedNormal(INIT_STD))
        self.token_type_embeddings = nn.Embedding(2, dim, embedding_table=TruncatedNormal(INIT_STD))
        self.LayerNorm = nn.LayerNorm((dim,), epsilon=EPSILON)
        self.dropout = Dropout(dropout)

    def construct(self, token_ids: Tensor) -> Tensor:
        length = token_ids.shape[1]
        constant = self.position_embeddings.embedding_table[:length] + self.token_type_embeddings.embedding_table[:1]
        return self.dropout(self.LayerNorm(self.word_embeddings(token_ids) + ops.expand_dims(constant, 0)))


class BertSelfAttention(nn.Cell):
    """Multi-head self-attention before its output projection."""

    def __init__(self, *, dim: int, heads: int, dropout: float):
        super().__init__()
        self.query = dense(dim, dim)
        self.key = dense(dim, dim)
        self.value = dense(dim, dim)
        self.attend = ScaledDotProductAttention(heads, Dropout(dropout))

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        return self.attend(self.query(x), self.key(x), self.value(x), bias)


class BertOutput(nn.Cell):
    """Linear layer, dropout, residual and layer normalisation. Inputs: x (B, T, in_dim); residual (B, T, D)."""

    def __init__(self, *, in_dim: int, dim: int, dropout: float):
        super().__init__()
        self.dense = dense(in_dim, dim)
        self.LayerNorm = nn.LayerNorm((dim,), epsilon=EPSILON)
        self.dropout = Dropout(dropout)

    def construct(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class BertAttention(nn.Cell):
    """Self-attention with its output projection."""

    def __init__(self, *, dim: int, heads: int, dropout: float):
        super().__init__()
        self.self = BertSelfAttention(dim=dim, heads=heads, dropout=dropout)
        # In graph mode, MindSpore 2.0 takes self.self for this Cell; the tuple gives its attention another name.
        self.attend = (self.self,)
        self.output = BertOutput(in_dim=dim, dim=dim, dropout=dropout)

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        return self.output(self.attend[0](x, bias), x)


class BertIntermediate(nn.Cell):
    """Linear layer and GELU. Inputs: (B, T, dim). Outputs: (B, T, 4 dim)."""

    def __init__(self, dim: int):
        super().__init__()
        self.dense = dense(dim, 4 * dim)
        self.gelu = Gelu()

    def construct(self, x: Tensor) -> Tensor:
        return self.gelu(self.dense(x))


class BertLayer(nn.Cell):
    """A post-norm transformer layer."""

    def __init__(self, *, dim: int, heads: int, dropout: float):
        super().__init__()
        self.attention = BertAttention(dim=dim, heads=heads, dropout=dropout)
        self.intermediate = BertIntermediate(dim)
        self.output = BertOutput(in_dim=4 * dim, dim=dim, dropout=dropout)

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.attention(x, bias)
        return self.output(self.intermediate(x), x)


class BertEncoder(nn.Cell):
    """All layers; ``BertModel.stage`` runs a quarter of them."""

    def __init__(self, *, dim: int, heads: int, layers: int, dropout: float):
        super().__init__()
        self.layer = nn.CellList([BertLayer(dim=dim, heads=heads, dropout=dropout) for _ in range(layers)])

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x, bias)
        return x


class BertModel(nn.Cell):
    """BERT without its pooler, whose stages can be called one by one, so that pixels are fused before each.

    Shapes: token_ids (B, T) int32; padding bias (B, 1, T), see ``padding_bias``; words (B, T, D). The feed-forward
    networks have four times the width D = ``dim``.

    Args:
        layers: Number of layers, a multiple of four.
        dropout: Dropout rate of embeddings, attention weights and layer outputs.
    """

    def __init__(self, *, vocab_size: int, dim: int, heads: int, layers: int, max_positions: int, dropout: float):
        super().__init__()
        self.per_stage = layers // 4
        self.embeddings = BertEmbeddings(vocab_size=vocab_size, dim=dim, max_positions=max_positions, dropout=dropout)
        self.encoder = BertEncoder(dim=dim, heads=heads, layers=layers, dropout=dropout)

    def construct(self, token_ids: Tensor, bias: Tensor) -> Tensor:
        """The encoder without pixels."""
        return self.encoder(self.embeddings(token_ids), bias)

    def stage(self, words: Tensor, bias: Tensor, i: int) -> Tensor:
        """BERTStage_{i+1} of Eq 3, i = 0 … 3; L_1 is ``embeddings(token_ids)``."""
        for k in range(i * self.per_stage, (i + 1) * self.per_stage):
            words = self.encoder.layer[k](words, bias)
        return words
