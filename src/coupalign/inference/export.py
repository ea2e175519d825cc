"""Export of a trained model as MindIR, compared with the model."""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
from mindspore import Tensor, nn

from coupalign.checkpoints.loading import load_checkpoint
from coupalign.config import Config
from coupalign.data.tokenizer import Tokenizer
from coupalign.data.transform import MEAN, STD
from coupalign.errors import UserError
from coupalign.files import atomic_path, find_file, sha256
from coupalign.inference.graph import ExportGraph
from coupalign.inference.plain import use_plain_operators
from coupalign.model import build_model

TOLERANCE = 1e-5
EXPRESSION = "the red circle left of the square"
INPUT_NAMES = ("image", "token_ids", "token_mask")
OUTPUT_NAMES = ("probability", "existence")  # the second if the model has this output


def export(
    config: Config,
    checkpoint: str | os.PathLike,
    file_name: str | os.PathLike,
    batch_size: int = 1,
    raw_image: bool = False,
    device: str = "CPU",
) -> float:
    """Writes `file_name` (.mindir) and a .json that describes it, and compares the file with the model.

    The graph computes in float32 (``ExportGraph``): the programs that run it have their own settings.

    Args:
        raw_image: let the graph take the pixels of the resized image, RGB (B, S, S, 3) uint8, and normalise them.
        device: CPU or Ascend, where the file will run. For the CPU, LayerNorm and GELU are replaced
            (``coupalign.inference.plain``).

    Returns: the largest difference of a probability between the file and the model.

    Raises: UserError if the checkpoint does not fit, the file cannot be written, or its outputs differ from the model's
    by more than ``TOLERANCE``. An existing file then stays as it was.
    """
    model, tokenizer = load_for_export(config, checkpoint)
    inputs = comparison_inputs(config, *tokenizer.encode(EXPRESSION), batch_size, raw_image)
    existence = config.model.existence
    network = ExportGraph(model, raw_image, existence).set_train(False)
    expected = [arrays(network(*each)) for each in inputs]
    if device == "CPU":
        use_plain_operators(model)
        network = ExportGraph(model, raw_image, existence).set_train(False)
    target = Path(file_name).expanduser().absolute()
    with atomic_path(target) as temporary, atomic_path(target.with_suffix(".json")) as description_file:
        with empty_working_directory(target.parent):
            write_mindir(network, inputs[0])
            exported = nn.GraphCell(mindspore.load("graph.mindir"))
            found = [arrays(exported(*each)) for each in inputs]
            # A copy of the contents has the usual permissions; MindSpore's file is readable by its owner only.
            shutil.copyfile("graph.mindir", temporary)
        pairs = zip(chain.from_iterable(found), chain.from_iterable(expected))
        difference = float(np.max([np.abs(one - other).max() for one, other in pairs]))  # np.max keeps NaN
        if not difference <= TOLERANCE:  # true for NaN
            off = f"{difference:.1e}, more than {TOLERANCE:.0e}"
            raise UserError(f"{file_name} was not written: its outputs differ from the model's by {off}")
        description = describe(config, tokenizer, checkpoint, device, raw_image)
        description["inputs"] = describe_ports(INPUT_NAMES, [each.asnumpy() for each in inputs[0]])
        description["outputs"] = describe_ports(OUTPUT_NAMES, expected[0])
        description["mindir_sha256"] = sha256(temporary)
        description_file.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return difference


def load_for_export(config: Config, checkpoint: str | os.PathLike) -> tuple[nn.Cell, Tokenizer]:
    """The model in float32 and the tokenizer of its vocabulary. Raises: UserError if the checkpoint does not fit."""
    model = build_model(config, precision="fp32")
    load_checkpoint(checkpoint, model)
    return model, Tokenizer(find_file(config.data.vocab_file), config.model.max_tokens)


@contextmanager
def empty_working_directory(parent: Path) -> Iterator[None]:
    """Changes into a temporary directory, because MindSpore only exports to paths of plain characters."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory(prefix=".export-", dir=parent) as directory:
        os.chdir(directory)
        try:
            yield
        finally:
            os.chdir(before)


def arrays(outputs: Tensor | Sequence[Tensor]) -> list[np.ndarray]:
    """Outputs of a graph, which returns a tensor if it has one output."""
    return [each.asnumpy() for each in (outputs if isinstance(outputs, (tuple, list)) else (outputs,))]


def write_mindir(network: nn.Cell, inputs: Sequence[Tensor]) -> None:
    """Writes graph.mindir to the working directory. Raises: UserError if the model is too large."""
    mindspore.export(network, *inputs, file_name="graph.mindir", file_format="MINDIR")
    if not os.path.exists("graph.mindir"):
        raise UserError("MindSpore splits models above 1 GB into files, which cannot be exported: use a smaller model")


def describe(
    config: Config, tokenizer: Tokenizer, checkpoint: str | os.PathLike, device: str, raw_image: bool
) -> dict[str, Any]:
    """What a program that runs the graph without this package needs to know. Mean and std are RGB, from 0 to 255."""
    return {
        "format": 1,
        "device": device,
        "image": {"size": config.model.image_size, "normalised": not raw_image, "mean": MEAN, "std": STD},
        "text": {
            "max_tokens": config.model.max_tokens,
            "vocabulary_size": tokenizer.vocabulary_size,
            "vocabulary_sha256": tokenizer.vocabulary_sha256,
        },
        "threshold": config.evaluation.threshold,
        **({"existence_threshold": config.evaluation.existence_threshold} if config.model.existence else {}),
        "versions": {"python": platform.python_version(), "mindspore": version("mindspore")},
        "checkpoint_sha256": sha256(find_file(checkpoint)),
    }


def describe_ports(names: Sequence[str], ports: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """Shapes and types of inputs or outputs for the description."""
    return [{"name": name, "shape": each.shape, "dtype": str(each.dtype)} for name, each in zip(names, ports)]


def comparison_inputs(
    config: Config, token_ids: np.ndarray, token_mask: np.ndarray, batch_size: int, raw_image: bool = False
) -> list[list[Tensor]]:
    """Two inputs of the graph with random images: one with a padded expression, one with random words in all slots."""
    random = np.random.default_rng(config.run.seed)
    size = config.model.image_size
    if raw_image:
        images = random.integers(0, 256, (2, batch_size, size, size, 3)).astype(np.uint8)
    else:
        images = random.standard_normal((2, batch_size, 3, size, size)).astype(np.float32)
    shape = (batch_size, config.model.max_tokens)
    words = random.integers(0, config.model.bert_vocab_size, shape).astype(np.int32)
    padded = [Tensor(np.broadcast_to(each, shape).copy()) for each in (token_ids, token_mask)]
    return [[Tensor(images[0]), *padded], [Tensor(images[1]), Tensor(words), Tensor(np.ones(shape, np.int32))]]
