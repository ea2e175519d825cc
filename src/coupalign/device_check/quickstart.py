"""The first 20 batches and losses of the quick start's training, without its data set.

quickstart_samples.csv lists their samples: number of the scene, index of the thing in it, expression.
quickstart_steps.csv holds the losses of the CPU (tests/test_golden.py).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from coupalign.config import Config
from coupalign.data.tokenizer import Tokenizer
from coupalign.data.transform import mask_resizing, prepare_image
from coupalign.refshapes.writer import draw_record

SAMPLES, STEPS = (Path(__file__).with_name(f"quickstart_{name}.csv") for name in ("samples", "steps"))
CONFIG = "configs/refshapes_tiny.yaml"


def quickstart_batches(config: Config) -> Iterator[dict[str, np.ndarray]]:
    """Yields the batches as ``Split`` reads them: image (B, 3, S, S), token_ids, token_mask (B, T), mask (B, S, S)."""
    tokenizer = Tokenizer(config.data.vocab_file, config.model.max_tokens)
    draw = lru_cache(lambda scene: draw_record("train", scene, config.run.seed))
    size, samples = config.model.image_size, read_table(SAMPLES)
    for start in range(0, len(samples), config.training.batch_size):
        rows = []
        for sample in samples[start : start + config.training.batch_size]:
            scene, thing = draw(int(sample["scene"])), int(sample["thing"])
            with Image.open(io.BytesIO(scene["png"])) as picture:
                image = prepare_image(np.asarray(picture.convert("RGB")), size)
            mask = rle.decode(scene["annotations"][thing]["segmentation"])
            (resize,) = mask_resizing(size)
            rows.append((image, *tokenizer.encode(sample["expression"]), resize(mask).astype(np.float32)))
        names = ("image", "token_ids", "token_mask", "mask")
        yield {name: np.stack(column) for name, column in zip(names, zip(*rows))}


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file by the names in its first line."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
