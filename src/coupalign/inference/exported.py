"""Graphs that export.py wrote. Nothing here needs MindSpore."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coupalign.config import Config
from coupalign.data.tokenizer import Tokenizer
from coupalign.errors import UserError
from coupalign.files import REPOSITORY, find_file, sha256
from coupalign.inference.prediction import Prediction


class OnnxPredictor:
    """Predicts masks with an exported graph in ONNX Runtime, by the code of deploy/onnx_predict.py.

    Args:
        config: Names one of the vocabularies to try (``find_vocabulary``).
        model: The .onnx of export.py, with its .json in the same directory.
        threads: CPU threads of a forward pass; 0 is one per core.

    Raises: UserError if the vocabulary is missing, or ONNX Runtime refuses the model.
    """

    def __init__(self, config: Config, model: str | os.PathLike, threads: int):
        vocabulary = find_vocabulary(config, model)
        program = _deployed("onnx_predict")
        try:
            self._model = program.OnnxModel(find_file(model), vocabulary, threads)
        except program.RequestError as error:
            raise UserError(str(error)) from error
        self.tokenizer = Tokenizer(vocabulary, self._model.description["text"]["max_tokens"])

    def predict_batch(
        self, images: Sequence[np.ndarray], expressions: Sequence[str], batch_size: int = 1
    ) -> list[Prediction]:
        """The prediction for each image (H, W, 3) uint8 with its expression.

        Pairs run one after another whatever the `batch_size`, because larger batches are no faster on a CPU.
        """
        return [self._predict(image, expression) for image, expression in zip(images, expressions)]

    def _predict(self, rgb: np.ndarray, expression: str) -> Prediction:
        found = self._model.answer(rgb, expression)
        mask, probability, warnings = self._model.at_size(found, rgb, expression)
        _, existence, nothing_fits = found
        return Prediction(mask, probability, None, tuple(warnings), existence, nothing_fits)


def read_description(model: str | os.PathLike) -> dict[str, Any]:
    """Reads the .json that export.py wrote beside a graph. Raises: UserError if it is missing or invalid."""
    reader = _deployed("model_inputs")
    try:
        return reader.read_description(find_file(model))
    except reader.RequestError as error:
        raise UserError(str(error)) from error


def find_vocabulary(config: Config, model: str | os.PathLike) -> Path:
    """The vocabulary that an exported model was trained with, by the SHA-256 in the model's .json. Raises: UserError.

    Tries the configuration's ``vocab_file``, the text files in the model's directory, and the vocabularies in assets/.
    """
    wanted = read_description(model)["text"]["vocabulary_sha256"]
    directory = find_file(model).absolute().parent
    candidates = [find_file(config.data.vocab_file), *sorted(directory.glob("*.txt"))]
    candidates += sorted((REPOSITORY / "assets").glob("*vocab*.txt"))
    for path in candidates:
        if path.is_file() and sha256(path) == wanted:
            return path
    missing = f"no vocabulary with the SHA-256 {wanted[:12]}… that {model} names"
    raise UserError(f"{missing}: copy the vocab.txt of its training to {directory}, or pass it with --vocab_file")


def _deployed(name: str) -> Any:
    """Imports a module of deploy/, whose programs also run where this package is not installed."""
    directory = str(REPOSITORY / "deploy")
    if directory not in sys.path:
        sys.path.append(directory)
    return importlib.import_module(name)
