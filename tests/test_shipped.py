"""The trained model in assets/refshapes."""
from __future__ import annotations

import hashlib
import json

import numpy as np
from pycocotools import mask as rle

from src.config import load_config
from src.data.refshapes.writer import _record
from src.inference import Predictor
from tests.documents import README, README_CN, REPOSITORY, commands

MODEL = REPOSITORY / "assets/refshapes"
CONFIG = load_config(MODEL / "config.yaml")
IMAGE, EXPRESSION = "val_000028.png", "big plain blue circle"  # of the READMEs' command


def test_it_finds_what_the_readmes_ask_for():
    record = _record("val", 28, load_config().seed)  # of the examples, whatever the seed of the model's training
    (thing,) = [thing for thing, said in record["refs"] if EXPRESSION in [text for _, text in said]]
    target = rle.decode(record["annotations"][thing]["segmentation"]).astype(bool)
    mask = Predictor(CONFIG, MODEL / "best.ckpt").predict(REPOSITORY / "assets/examples" / IMAGE, EXPRESSION).mask
    assert np.sum(mask & target) > 0.6 * np.sum(mask | target)


def test_evaluations_beside_it_are_its_own():
    checkpoint = hashlib.sha256((MODEL / "best.ckpt").read_bytes()).hexdigest()
    for split in CONFIG.eval_splits:
        found = json.loads((MODEL / f"eval/{split}.json").read_text())
        assert found["checkpoint"] == {"file": "assets/refshapes/best.ckpt", "sha256": checkpoint}
        assert found["samples"] == 2000 and found["config"]["swin_depths"] == list(CONFIG.swin_depths)


def test_the_readmes_show_its_figures():
    found = {split: json.loads((MODEL / f"eval/{split}.json").read_text()) for split in CONFIG.eval_splits}
    figures = [*found["val"]["families"].values(), *(of["metrics"] for of in found.values())]
    for page in (README, README_CN):
        for figure in figures:
            assert f"| {100 * figure['oIoU']:.2f} / {100 * figure['mIoU']:.2f} |" in page.read_text()


def test_the_readmes_ask_it():
    for page in (README, README_CN):
        assert any(MODEL.relative_to(REPOSITORY).as_posix() + "/best.ckpt" in " ".join(command.words)
                   and IMAGE in " ".join(command.words) and EXPRESSION in command.words for command in commands(page))
