"""A model with CoupAlign's ways in and out, and all that a training has to save, which compiles in seconds."""

from __future__ import annotations

from mindspore import Tensor, nn

from coupalign.model.batch_norm import batch_norm
from coupalign.model.dropout import Dropout


class TinyModel(nn.Cell):
    """Two convolutions with a batch norm and dropout between them; words shift what they see.

    Inputs: as CoupAlign, of any size S that 8 divides. Outputs: logits (B, S, S).
    """

    def __init__(self):
        super().__init__()
        self.image_encoder = nn.Conv2d(3, 6, 8, 8, pad_mode="valid", has_bias=True)
        self.text_encoder = nn.Embedding(30522, 6)
        self.seg_head = nn.SequentialCell(batch_norm(6, "synchronised"), nn.ReLU(), Dropout(0.2))
        self.mask_proj = nn.Conv2d(6, 64, 1, has_bias=True)

    def training_outputs(self, image: Tensor, token_ids: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        words = (self.text_encoder(token_ids) * token_mask.expand_dims(-1)).sum(1)
        pixels = self.seg_head(self.image_encoder(image) + words.expand_dims(-1).expand_dims(-1))
        batch, side = pixels.shape[0], pixels.shape[-1]
        logits = self.mask_proj(pixels).reshape(batch, 8, 8, side, side).transpose(0, 3, 1, 4, 2)
        return logits.reshape(batch, 8 * side, 8 * side), pixels

    def construct(self, image: Tensor, token_ids: Tensor, token_mask: Tensor) -> Tensor:
        return self.training_outputs(image, token_ids, token_mask)[0]
