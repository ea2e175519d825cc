"""Predictions for image files, written as files and lines of JSON."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

import coupalign
from coupalign.config import Config
from coupalign.data.images import decode_image, load_image, read_content
from coupalign.errors import UserError
from coupalign.files import find_checkpoint, sha256
from coupalign.inference.predictor import Predictor
from coupalign.inference.request_file import Requests
from coupalign.inference.results import Results, write_coco

_SILENT = ("segmentation", "made_from")  # of a record, in the files only
_logger = logging.getLogger(__name__)


def predict(
    config: Config,
    checkpoint: str | os.PathLike,
    requests: Requests,
    output: str | os.PathLike,
    probability: bool = False,
) -> int:
    """Writes the files of ``Results`` for each image and expression to `output`, and prints a line of JSON.

    A line holds ``image``, ``expression``, the files ``mask`` and ``overlay``, ``area`` (share of the image), ``box``
    ([x, y, width, height] in pixels, or null for an empty mask), ``score`` and ``warnings``, which also go to stderr. A
    model with an existence output adds ``existence``, its probability, and ``nothing_fits``; that goes to stderr too.
    An image that cannot be read gets a line with ``image`` and ``error`` if there are other images. Predictions that an
    earlier run made with the same model are not made again. At the end, predictions.json holds all of them (COCO).

    Args:
        config: Up to ``eval_batch_size`` predictions are made at a time.
        probability: also write the probability maps, (H, W) float32, as .probability.npy.

    Returns: the number of images that could not be read.

    Raises: UserError as ``Predictor`` and ``Predictor.predict``, or if the only image cannot be read.
    """
    if len(requests) == 1:
        load_image(next(iter(requests)))  # report a damaged image before the model is built
    predictor = Predictor(checkpoint, config=config, keep_graph=True)
    for expression in dict.fromkeys(text for texts in requests.values() for text in texts):
        predictor.encode(expression)  # report a wrong expression before anything is written
        for warning in predictor.tokenizer.warnings(expression):
            _logger.warning("%r: %s", expression, warning)
    results = Results(output, _identity(config, checkpoint, predictor), probability)
    total = sum(map(len, requests.values()))
    batch_size = min(config.evaluation.eval_batch_size, total)
    records, failed = [], 0
    with tqdm(total=total, unit="mask", disable=None) as bar:
        for record in _complete(_find(requests, results), predictor, results, batch_size):
            tqdm.write(json.dumps({name: each for name, each in record.items() if name not in _SILENT}), sys.stdout)
            sys.stdout.flush()
            if "error" in record:
                failed += 1
                bar.update(len(requests[Path(record["image"])]))
            else:
                if record.get("nothing_fits"):
                    _logger.warning("%s, %r: %s", record["image"], record["expression"], record["warnings"][0])
                records.append(record)
                bar.update()
    write_coco(Path(output).expanduser() / "predictions.json", records)
    return failed


class _Missing(NamedTuple):
    """A prediction that no earlier run has made; the arguments of ``Results.write``."""

    image: Path
    content: bytes
    rgb: np.ndarray
    expression: str


def _find(requests: Requests, results: Results) -> Iterator[dict[str, Any] | _Missing]:
    """Yields what is known of each prediction, and an error for each damaged image."""
    for path, texts in requests.items():
        try:
            content = read_content(path, f"image {path}")
            rgb = decode_image(content, path)
        except UserError as error:
            yield {"image": str(path), "error": str(error)}
            continue
        for text in texts:
            yield results.find(path, content, text) or _Missing(path, content, rgb, text)


def _complete(
    found: Iterator[dict[str, Any] | _Missing], predictor: Predictor, results: Results, batch_size: int
) -> Iterator[dict[str, Any]]:
    """Yields the records in order. Missing ones are made in batches."""
    queue: list[dict[str, Any] | _Missing] = []
    missing: list[_Missing] = []
    for each in chain(found, [None]):
        if each is not None:
            queue.append(each)
        if isinstance(each, _Missing):
            missing.append(each)
        if each is None or len(missing) in (0, batch_size):
            pixels, texts = [one.rgb for one in missing], [one.expression for one in missing]
            made = iter(predictor.predict_batch(pixels, texts, batch_size))
            for one in queue:
                yield results.write(*one, next(made)) if isinstance(one, _Missing) else one
            queue, missing = [], []


def _identity(config: Config, checkpoint: str | os.PathLike, predictor: Predictor) -> str:
    """A text that differs where the predictions of an image and an expression may differ."""
    settings = {**asdict(config.model), **asdict(config.evaluation), "eval_batch_size": None}
    parts = [
        coupalign.__version__,
        sha256(find_checkpoint(checkpoint)),
        predictor.tokenizer.vocabulary_sha256,
        config.run.precision,
        settings,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
