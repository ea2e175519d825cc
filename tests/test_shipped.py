"""The trained model in assets/refshapes."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from pycocotools import mask as rle

from coupalign.config import load_config
from coupalign.inference.predictor import Predictor
from coupalign.refshapes.writer import draw_record
from tests.documents import REPOSITORY

MODEL = REPOSITORY / "assets/refshapes"
CONFIG = load_config(MODEL / "config.yaml")
IMAGE, EXPRESSION = "val_000028.png", "big plain blue circle"  # of the READMEs' command


def evaluations() -> dict[str, dict]:
    """By split, what eval.py wrote of the model."""
    return {split: json.loads((MODEL / f"eval/{split}.json").read_text()) for split in CONFIG.evaluation.eval_splits}


@pytest.mark.slow
def test_it_finds_the_object_of_the_readme():
    record = draw_record(
        "val", 28, load_config().run.seed
    )  # of the examples, whatever the seed of the model's training
    (thing,) = [ref.things[0] for ref in record["refs"] if EXPRESSION in [text for _, text in ref.expressions]]
    target = rle.decode(record["annotations"][thing]["segmentation"]).astype(bool)
    mask = Predictor(MODEL / "model.safetensors").predict(REPOSITORY / "assets/examples" / IMAGE, EXPRESSION).mask
    assert np.sum(mask & target) > 0.6 * np.sum(mask | target)


def test_evaluations_beside_it_are_its_own():
    checkpoint = hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest()
    for found in evaluations().values():
        assert found["checkpoint"] == {"file": "assets/refshapes/model.safetensors", "sha256": checkpoint}
        assert found["samples"] == 2000 and found["config"]["swin_depths"] == list(CONFIG.model.swin_depths)
