"""Whether an expression names anything in the image (generalised referring segmentation; not in the paper)."""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from coupalign.model.layers import dense


class Existence(nn.Cell):
    """Logit of "something in this image fits the expression", from the sentence and the mask's most probable places.

    With a = softmax(M) over places, sentence s = LayerNorm(L_g W), feature v = LayerNorm(sum_p a_p Y_1(p)) and mask
    logit m = sum_p a_p M(p):

        logit = MLP([s; v; s v; m]), one hidden layer with ReLU

    M is the sum of the proposals that Q_w chose, so the logit judges the same answer that the mask shows, with or
    without Sentence-Mask Alignment. Q_w alone cannot tell, because its weights sum to 1 even if no proposal fits.

    No gradient flows to M, so that the mask only learns from masks: otherwise an expression that fits nothing would
    also move M to places that look least like it. Y_1 and L_g do learn from the logit. All of it is float32.

    Args:
        pixel_dim: d_s, width of Y_1 and of the hidden layer.
        text_dim: D, width of L_g.

    Inputs: mask M (B, 1, h, w), logits; pixels Y_1 (B, d_s, h, w); sentence L_g (B, D). Outputs: (B,) float32.
    """

    def __init__(self, *, pixel_dim: int, text_dim: int):
        super().__init__()
        self.sentence_proj = dense(text_dim, pixel_dim)
        self.sentence_norm = nn.LayerNorm((pixel_dim,), epsilon=1e-5)
        self.pixel_norm = nn.LayerNorm((pixel_dim,), epsilon=1e-5)
        self.fc1 = dense(3 * pixel_dim + 1, pixel_dim)
        self.fc2 = dense(pixel_dim, 1)

    def construct(self, mask: Tensor, pixels: Tensor, sentence: Tensor) -> Tensor:
        batch, dim, height, width = pixels.shape
        logits = ops.stop_gradient(mask.astype("float32").reshape(batch, height * width))
        places = ops.softmax(logits, axis=-1)
        pooled = ops.matmul(pixels.astype("float32").reshape(batch, dim, -1), ops.expand_dims(places, -1)).squeeze(-1)
        v = self.pixel_norm(pooled)
        s = self.sentence_norm(self.sentence_proj(sentence.astype("float32")))
        m = (places * logits).sum(-1, keepdims=True)
        return self.fc2(ops.relu(self.fc1(ops.concat((s, v, s * v, m), -1)))).squeeze(-1)
