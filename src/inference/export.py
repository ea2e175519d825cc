"""A trained model as MindIR, checked against the model it came from."""
from __future__ import annotations

import os
from collections.abc import Sequence

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops

from src.config import Config
from src.data.tokenizer import Tokenizer
from src.errors import UserError
from src.files import atomic_path, find_file
from src.inference.checkpoint import load_checkpoint
from src.model import build_model

TOLERANCE = 1e-5
SENTENCE = "the red circle left of the square"


def export(config: Config, checkpoint: str | os.PathLike, file_name: str | os.PathLike, batch_size: int = 1) -> float:
    """Writes `file_name` (.mindir), loads it again and compares it with the model; atomically.

    The graph takes image (B, 3, S, S) float32 as ``src.data.transform.prepare_image`` makes it, token_ids and
    token_mask (B, T) int32 as ``src.data.tokenizer.Tokenizer`` does, and gives the probability (B, S, S) float32. It
    computes in float32, whatever the configuration's precision: runtimes have settings of their own for less.

    Returns: the largest difference of a probability between the file and the model.

    Raises:
        UserError: where the checkpoint does not fit, the file cannot be written, or its probabilities differ from the
            model's by more than ``TOLERANCE``; no file is left then.
    """
    model = build_model(config, precision="fp32")
    load_checkpoint(checkpoint, model)
    network = ProbabilityMap(model).set_train(False)
    tokenizer = Tokenizer(find_file(config.vocab_file), config.max_tokens)
    inputs = _inputs(config, *tokenizer.encode(SENTENCE), batch_size)
    with atomic_path(file_name) as temporary:
        mindspore.export(network, *inputs[0], file_name=str(temporary), file_format="MINDIR")
        if not temporary.exists():
            raise UserError(f"{file_name}: the model is above 1 GB, which MindIR keeps in several files: "
                            "choose a smaller configuration")
        exported = nn.GraphCell(mindspore.load(str(temporary)))
        difference = max(_difference(exported, network, each) for each in inputs)
        if not difference <= TOLERANCE:  # also where it is not a number
            raise UserError(f"{file_name} gives other probabilities than the model (by {difference:.1e}): not kept")
    return difference


class ProbabilityMap(nn.Cell):
    """A model and the sigmoid of its logits: what an application needs of a graph.

    Inputs and outputs as those of the model, but probabilities (B, S, S) in place of logits.
    """

    def __init__(self, model: nn.Cell):
        super().__init__(auto_prefix=False)
        self.model = model

    def construct(self, image: Tensor, token_ids: Tensor, token_mask: Tensor) -> Tensor:
        return ops.sigmoid(self.model(image, token_ids, token_mask))


def _inputs(config: Config, token_ids: np.ndarray, token_mask: np.ndarray, batch_size: int) -> list[list[Tensor]]:
    """Random images with a sentence that is padded, and with random words in all places."""
    random = np.random.default_rng(config.seed)
    images = random.standard_normal((2, batch_size, 3, config.image_size, config.image_size)).astype(np.float32)
    shape = (batch_size, config.max_tokens)
    words = random.integers(0, config.bert_vocab_size, shape).astype(np.int32)
    return [
        [Tensor(images[0]), Tensor(np.broadcast_to(token_ids, shape).copy()),
         Tensor(np.broadcast_to(token_mask, shape).copy())],
        [Tensor(images[1]), Tensor(words), Tensor(np.ones(shape, np.int32))],
    ]


def _difference(exported: nn.Cell, network: nn.Cell, inputs: Sequence[Tensor]) -> float:
    return float(np.abs(exported(*inputs).asnumpy() - network(*inputs).asnumpy()).max())
