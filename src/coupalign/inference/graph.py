"""Cells that put a model into the form that prediction and export need."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops

from coupalign.data.transform import MEAN, STD


class PredictAll(nn.Cell):
    """``CoupAlign.all_outputs`` as a Cell, because MindSpore compiles Cells."""

    def __init__(self, model: nn.Cell):
        super().__init__(auto_prefix=False)
        self.model = model

    def construct(self, image: Tensor, token_ids: Tensor, token_mask: Tensor) -> tuple:
        return self.model.all_outputs(image, token_ids, token_mask)


class ExportGraph(nn.Cell):
    """A model with the pre- and post-processing of an exported graph.

    Args:
        model: CoupAlign in evaluation mode.
        raw_image: take RGB pixels and normalise them inside the graph.
        existence: whether the model has this output.

    Inputs: image (B, 3, S, S) float32, normalised, or with `raw_image` (B, S, S, 3) uint8; token_ids and token_mask
    (B, T) int32. Outputs: probability (B, S, S) float32; with `existence` also the probability that something fits the
    expression, (B,) float32.
    """

    def __init__(self, model: nn.Cell, raw_image: bool = False, existence: bool = False):
        super().__init__(auto_prefix=False)
        self.model = model
        self.raw_image, self.existence = raw_image, existence
        self.mean = Tensor(np.array(MEAN, np.float32).reshape(3, 1, 1))
        self.std = Tensor(np.array(STD, np.float32).reshape(3, 1, 1))

    def construct(self, image: Tensor, token_ids: Tensor, token_mask: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if self.raw_image:
            # Transposing the uint8 input avoids a bug: Lite 2.0 takes the transpose of a computed image for a change of
            # format, and fails.
            image = (image.transpose(0, 3, 1, 2).astype("float32") - self.mean) / self.std
        outputs = self.model(image, token_ids, token_mask)
        if self.existence:
            return ops.sigmoid(outputs[0]), ops.sigmoid(outputs[1])
        return ops.sigmoid(outputs)
