"""A trained model as MindIR, checked against the model it came from."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops

from coupalign.checkpoints.loading import load_checkpoint
from coupalign.config import Config
from coupalign.data.tokenizer import Tokenizer
from coupalign.data.transform import MEAN, STD
from coupalign.errors import UserError
from coupalign.files import atomic_path, find_file, sha256
from coupalign.inference.plain import use_plain_operators
from coupalign.model import build_model

TOLERANCE = 1e-5
SENTENCE = "the red circle left of the square"
INPUTS = ("image", "token_ids", "token_mask")
OUTPUTS = ("probability", "proposals", "weights")


def export(
    config: Config,
    checkpoint: str | os.PathLike,
    file_name: str | os.PathLike,
    batch_size: int = 1,
    raw_image: bool = False,
    proposals: bool = False,
    device: str = "CPU",
) -> float:
    """Writes `file_name` (.mindir), loads it again and compares it with the model; and a .json that describes it.

    The graph takes image (B, 3, S, S) float32 as ``coupalign.data.transform.prepare_image`` makes it, token_ids and
    token_mask (B, T) int32 as ``coupalign.data.tokenizer.Tokenizer`` does, and gives the probability (B, S, S) float32. It
    computes in float32, whatever the configuration's precision: runtimes have settings of their own for less.

    Args:
        raw_image: the graph takes the resized image's pixels instead, RGB (B, S, S, 3) uint8, and normalises them.
        proposals: the graph also gives Y_N (B, N, S/4, S/4), logits, and Q_w (B, N) (Eq 11, 12).
        device: CPU or Ascend, where the file will run. For CPU layer norms and GELU are written with other operators
            (``coupalign.inference.plain``).

    Returns: the largest difference of an output between the file and the model.

    Raises:
        UserError: where the checkpoint does not fit, the file cannot be written, or its outputs differ from the
            model's by more than ``TOLERANCE``; no file is left then, and what was there before stays.
    """
    model = build_model(config, precision="fp32")
    load_checkpoint(checkpoint, model)
    tokenizer = Tokenizer(find_file(config.data.vocab_file), config.model.max_tokens)
    inputs = _inputs(config, *tokenizer.encode(SENTENCE), batch_size, raw_image)
    network = Graph(model, raw_image, proposals).set_train(False)
    expected = [_tuple(network(*each)) for each in inputs]
    if device == "CPU":
        use_plain_operators(model)
        network = Graph(model, raw_image, proposals).set_train(False)
    with atomic_path(file_name) as temporary, atomic_path(Path(file_name).with_suffix(".json")) as described:
        mindspore.export(network, *inputs[0], file_name=str(temporary), file_format="MINDIR")
        if not temporary.exists():
            raise UserError(
                f"{file_name}: the model is above 1 GB, which MindIR keeps in several files: "
                "choose a smaller configuration"
            )
        exported = nn.GraphCell(mindspore.load(str(temporary)))
        difference = float(
            np.max([_difference(_tuple(exported(*each)), those) for each, those in zip(inputs, expected)])
        )
        if not difference <= TOLERANCE:  # also where it is not a number
            raise UserError(f"{file_name} gives other outputs than the model (by {difference:.1e}): not kept")
        description = {
            **_description(config, tokenizer, raw_image, device),
            "inputs": _ports(INPUTS, inputs[0]),
            "outputs": _ports(OUTPUTS, expected[0]),
            "checkpoint_sha256": sha256(find_file(checkpoint)),
            "mindir_sha256": sha256(temporary),
        }
        described.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        # MindSpore leaves a file that its owner alone may read.
        shutil.copymode(described, temporary)
    return difference


class Graph(nn.Cell):
    """A model with what an application needs around it; see ``export`` for inputs and outputs."""

    def __init__(self, model: nn.Cell, raw_image: bool = False, proposals: bool = False):
        super().__init__(auto_prefix=False)
        self.model = model
        self.raw_image = raw_image
        self.proposals = proposals
        self.mean = Tensor(np.array(MEAN, np.float32).reshape(3, 1, 1))
        self.std = Tensor(np.array(STD, np.float32).reshape(3, 1, 1))

    def construct(self, image: Tensor, token_ids: Tensor, token_mask: Tensor):
        if self.raw_image:
            # Transposed first, since of other values than pixels Lite takes this for a change of format, and fails.
            image = (image.transpose(0, 3, 1, 2).astype("float32") - self.mean) / self.std
        if not self.proposals:
            return ops.sigmoid(self.model(image, token_ids, token_mask))
        logits, _, masks, weights, _ = self.model.predict_all(image, token_ids, token_mask)
        return ops.sigmoid(logits), masks, weights


def _description(config: Config, tokenizer: Tokenizer, raw_image: bool, device: str) -> dict[str, Any]:
    """What a program without this package has to know, of JSON's types. Mean and deviation are on 0 … 255, RGB."""
    return {
        "format": 1,
        "device": device,
        "image": {"size": config.model.image_size, "normalised": not raw_image, "mean": list(MEAN), "std": list(STD)},
        "text": {
            "max_tokens": config.model.max_tokens,
            "vocabulary_size": tokenizer.vocabulary_size,
            "vocabulary_sha256": tokenizer.vocabulary_sha256,
        },
        "threshold": config.evaluation.threshold,
        "versions": {"python": platform.python_version(), "mindspore": version("mindspore")},
    }


def _ports(names: Sequence[str], tensors: Sequence[Tensor]) -> list[dict[str, Any]]:
    return [
        {"name": name, "shape": list(tensor.shape), "dtype": str(tensor.asnumpy().dtype)}
        for name, tensor in zip(names, tensors)
    ]


def _inputs(
    config: Config, token_ids: np.ndarray, token_mask: np.ndarray, batch_size: int, raw_image: bool = False
) -> list[list[Tensor]]:
    """Random images with a sentence that is padded, and with random words in all places."""
    random = np.random.default_rng(config.run.seed)
    size = config.model.image_size
    if raw_image:
        images = random.integers(0, 256, (2, batch_size, size, size, 3)).astype(np.uint8)
    else:
        images = random.standard_normal((2, batch_size, 3, size, size)).astype(np.float32)
    shape = (batch_size, config.model.max_tokens)
    words = random.integers(0, config.model.bert_vocab_size, shape).astype(np.int32)
    return [
        [
            Tensor(images[0]),
            Tensor(np.broadcast_to(token_ids, shape).copy()),
            Tensor(np.broadcast_to(token_mask, shape).copy()),
        ],
        [Tensor(images[1]), Tensor(words), Tensor(np.ones(shape, np.int32))],
    ]


def _tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest difference of an output; of logits in units of the largest."""
    arrays = [(one.asnumpy(), other.asnumpy()) for one, other in zip(found, expected)]
    return float(np.max([np.abs(one - other).max() / max(1, np.abs(other).max()) for one, other in arrays]))
