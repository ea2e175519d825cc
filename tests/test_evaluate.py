from __future__ import annotations

import hashlib
import json
import os

import cv2
import mindspore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import Tensor

import eval as program
from coupalign.config import load_config
from coupalign.errors import UserError
from coupalign.evaluation.evaluate import derangement, evaluate_split
from coupalign.inference.predictor import Predictor
from tests.conftest import TINY, read_csv, refshapes_config
from tests.refshapes_files import Files

SIDE, SAMPLES = 64, 10
THRESHOLD = 0.51  # where the random model below has some masks of middling size


class FakeSplit:
    """Ten samples of five images, two of each, in the shape that ``coupalign.data.dataset.Split`` has.

    A sample's word 1 is its row number plus 1, so that a forward function can tell whose words it was given.
    """

    def __init__(self):
        random = np.random.default_rng(5)
        self.image_of = np.repeat(np.arange(5), 2)
        self.images = random.standard_normal((5, 3, SIDE, SIDE)).astype(np.float32)
        self.sizes = [(SIDE, SIDE), (100, 60), (31, 47), (SIDE, SIDE), (128, 128)]
        self.targets = [random.random(self.sizes[k]) < 0.3 for k in self.image_of]
        self.input_targets = [random.random((SIDE, SIDE)) < 0.3 for _ in self.image_of]
        rows = np.arange(SAMPLES)
        token_ids = np.zeros((SAMPLES, 8), np.int32)
        token_ids[:, 1] = rows + 1
        baselines = np.stack([rows, np.full(SAMPLES, 10), rows, np.full(SAMPLES, 20)], 1)
        self.records = {
            "image_id": self.image_of + 100,
            "ref_id": rows // 2,
            "ann_id": rows + 50,
            "sent_id": rows + 900,
            "expression": np.array([f'the "{k}", ünter' for k in rows]),
            "category": np.array(["circle"] * SAMPLES),
            "family": np.array(["negation", "attribute"] * 5),
            "baselines": baselines.astype(np.int64),
            "token_ids": token_ids,
            "token_mask": (token_ids > 0).astype(np.int32),
        }

    def indices(self, sentences, seed):
        return np.arange(SAMPLES) if sentences == "all" else np.arange(0, SAMPLES, 2)

    def samples(self, indices, num_workers):
        for k in indices:
            yield {
                "image": self.images[self.image_of[k]],
                "token_ids": self.records["token_ids"][k],
                "token_mask": self.records["token_mask"][k],
                "target": self.targets[k],
                "input_target": self.input_targets[k],
            }


class Forward:
    """Logits that depend on image and words, by a rule that the test repeats: the image's first channel plus a word."""

    def __init__(self):
        self.calls = []

    def __call__(self, image, token_ids, token_mask):
        image, token_ids, token_mask = image.asnumpy(), token_ids.asnumpy(), token_mask.asnumpy()
        assert (image.dtype, token_ids.dtype, token_mask.dtype) == (np.float32, np.int32, np.int32)
        assert token_mask[:, 1].all()
        self.calls.append((image, token_ids))
        return Tensor(logits_of(image, token_ids))


def logits_of(image, token_ids):
    return (image[:, 0] + token_ids[:, 1, None, None] / 10 - 1).astype(np.float32)


def config(**overrides):
    return load_config(overrides={**TINY, "dataset": "made up", **overrides})


def counted(split: FakeSplit, row: int, words: int, threshold: float, resolution: str) -> tuple[int, int]:
    """Intersection and union of one sample, from the definitions; OpenCV's bilinear resize has half-pixel centres."""
    word = split.records["token_ids"][words][None]
    logits = logits_of(split.images[split.image_of[row]][None], word)[0].astype(np.float64)
    probability = 1 / (1 + np.exp(-logits))
    target = split.input_targets[row]
    if resolution == "original":
        target = split.targets[row]
        probability = cv2.resize(probability, target.shape[::-1], interpolation=cv2.INTER_LINEAR)
    prediction = probability > threshold
    return int((prediction & target).sum()), int((prediction | target).sum())


def overall(counts) -> float:
    """oIoU of (intersection, union) pairs."""
    return sum(i for i, _ in counts) / sum(u for _, u in counts)


def scored(split=None, forward=None, name="val", limit=0, shuffled=False, **keys):
    return evaluate_split(
        forward or Forward(), config(**keys), split or FakeSplit(), name, limit, progress=False, shuffled=shuffled
    )


@pytest.mark.parametrize("resolution", ["original", "input"])
@pytest.mark.parametrize(("batch", "threshold"), [(4, 0.5), (3, 0.35), (10, 0.5), (16, 0.5)])
def test_every_sample_counts_once_at_the_right_size(tmp_path, batch, threshold, resolution):
    split, forward = FakeSplit(), Forward()
    result = scored(split, forward, eval_batch_size=batch, threshold=threshold, eval_resolution=resolution)
    result.save(tmp_path)
    expected = [counted(split, k, k, threshold, resolution) for k in range(SAMPLES)]
    assert [(int(row["intersection"]), int(row["union"])) for row in read_csv(tmp_path / "val.csv")] == expected
    assert result.metrics["samples"] == SAMPLES
    assert result.metrics["oIoU"] == overall(expected)
    # A batch of another size would be compiled again.
    assert {image.shape[0] for image, _ in forward.calls} == {batch}
    assert len(forward.calls) == -(-SAMPLES // batch)


def test_families_and_baselines_stand_beside_the_result(tmp_path):
    split = FakeSplit()
    result = scored(split, name="testA")
    counts = [counted(split, k, k, 0.5, "original") for k in range(SAMPLES)]
    assert list(result.families) == ["attribute", "negation"]
    for family, part in (("negation", counts[0::2]), ("attribute", counts[1::2])):
        assert result.families[family]["oIoU"] == overall(part)
        assert result.families[family]["samples"] == 5
    # Σ 0..9 = 45 over 10 × 10, and over 10 × 20.
    assert result.baselines["all of the class"]["oIoU"] == 45 / 100
    assert result.baselines["largest object"]["oIoU"] == 45 / 200
    assert result.baselines["all of the class"]["prec@0.7"] == 0.2  # .8 and .9, not .7
    assert "shuffled expressions" not in result.baselines


def test_shuffled_expressions_come_from_other_images(tmp_path):
    split, forward = FakeSplit(), Forward()
    result = scored(split, forward, shuffled=True, eval_batch_size=5)
    given_words = np.concatenate([token_ids[:, 1] - 1 for _, token_ids in forward.calls[1::2]])
    assert sorted(given_words) == list(range(SAMPLES))
    assert (split.image_of[given_words] != split.image_of).all()
    expected = [counted(split, k, words, 0.5, "original") for k, words in enumerate(given_words)]
    assert result.baselines["shuffled expressions"]["oIoU"] == overall(expected)
    assert scored(split).metrics == result.metrics


def test_limit_and_sentences_choose_samples():
    split = FakeSplit()
    for result, rows in ((scored(split, limit=3), range(3)), (scored(split, sentences="first"), range(0, SAMPLES, 2))):
        assert result.metrics["samples"] == len(rows)
        assert result.metrics["oIoU"] == overall([counted(split, k, k, 0.5, "original") for k in rows])


def test_a_probability_at_the_threshold_is_outside():
    result = scored(forward=lambda *_: Tensor(np.zeros((4, SIDE, SIDE), np.float32)))
    assert result.metrics["oIoU"] == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_diverged_model_is_no_empty_mask(value):
    with pytest.raises(UserError, match="not finite"):
        scored(forward=lambda *_: Tensor(np.full((4, SIDE, SIDE), value, np.float32)))


def test_a_split_without_samples():
    split = FakeSplit()
    split.indices = lambda *_: np.arange(0)
    with pytest.raises(UserError, match="split val of .* has no samples"):
        scored(split)


def test_what_is_saved_says_how_it_was_made(tmp_path):
    keys = {"sentences": "first", "threshold": 0.4, "eval_resolution": "input"}
    result = scored(name="testB", **keys)
    result.checkpoint = {"file": "best.ckpt", "sha256": "ab"}
    result.save(tmp_path / "eval")
    saved = json.loads((tmp_path / "eval" / "testB.json").read_text(encoding="utf-8"))
    about = ("dataset", "split", "samples", "sentences", "resolution", "threshold")
    assert [saved[key] for key in about] == ["made up", "testB", 5, "first", "input", 0.4]
    assert saved["checkpoint"] == {"file": "best.ckpt", "sha256": "ab"}
    assert load_config(overrides=saved["config"]) == config(**keys)
    assert saved["metrics"] == result.metrics and saved["families"] == result.families
    # Objects are counted at the images' own size, which here is not the size of the masks compared.
    assert sorted(saved["baselines"]) == ["all of the class (at own size)", "largest object (at own size)"]
    assert saved["versions"]["mindspore"].count(".") >= 2
    rows = read_csv(tmp_path / "eval" / "testB.csv")
    assert [row["sent_id"] for row in rows] == ["900", "902", "904", "906", "908"]
    assert rows[1]["expression"] == 'the "2", ünter' and rows[1]["family"] == "negation"
    for row in rows:
        assert float(row["iou"]) == pytest.approx(int(row["intersection"]) / int(row["union"]), abs=1e-6)
    assert sorted(path.name for path in (tmp_path / "eval").iterdir()) == ["testB.csv", "testB.json"]


def test_the_table_has_a_row_for_each_family_and_baseline_in_per_cent():
    result = scored(shuffled=True)
    lines = [line.split() for line in result.table().splitlines()]
    rows = {" ".join(line[:-8]): line[-8:] for line in lines if len(line) > 8}
    assert result.table().startswith("made up val: 10 samples")
    assert rows["baseline: all of the class"] == "10 45.00 45.00 40.00 30.00 20.00 10.00 0.00".split()
    assert {"all", "attribute", "negation", "baseline: largest object", "baseline: shuffled expressions"} <= set(rows)


@settings(max_examples=200)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(0, 5))
def test_derangement(images, seed):
    images = np.array(images)
    order = derangement(images, seed)
    if order is None:
        # Only where no order can do: one image has more than half of the samples.
        assert 2 * np.bincount(images).max() > len(images)
        return
    assert sorted(order) == list(range(len(images)))
    assert (images[order] != images).all()
    assert (derangement(images, seed) == order).all()


def test_derangements_depend_on_the_seed():
    images = np.arange(50)
    assert (derangement(images, 1) != derangement(images, 2)).any()


@pytest.mark.slow
def test_the_program_finds_what_the_predictor_finds_in_the_images(make_checkpoint, tiny_data, tmp_path, capfd):
    """From MindRecord and from the files it was made of: two roads to the same pixels."""
    settings_ = refshapes_config(tiny_data, eval_splits=["val", "testB"], eval_limit=22, threshold=THRESHOLD)
    checkpoint = make_checkpoint(settings_)
    assert program.main(["--checkpoint", str(checkpoint), "--output", str(tmp_path / "out")]) == 0
    out, err = capfd.readouterr()
    assert "refshapes (synthetic) val: 22 samples" in out and "refshapes (synthetic) testB: 22 samples" in out
    assert "baseline: shuffled expressions" in out and "error" not in err.lower()
    assert sorted(os.listdir(tmp_path / "out")) == ["testB.csv", "testB.json", "val.csv", "val.json"]

    files, predictor = Files(tiny_data / "source"), Predictor(checkpoint, config=settings_)
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)  # compiling takes longer
    rows, areas = read_csv(tmp_path / "out" / "val.csv"), []
    for row in rows[::3]:
        image_id = int(row["image_id"])
        found = predictor.predict(files.pixels(image_id), row["expression"])
        (target,) = [item.mask for item in files.items(image_id) if item.ann_id == int(row["ann_id"])]
        undecided = int((np.abs(found.probability - THRESHOLD) < 1e-5).sum())
        areas.append(found.mask.mean())
        assert abs(int(row["intersection"]) - (found.mask & target).sum()) <= undecided
        assert abs(int(row["union"]) - (found.mask | target).sum()) <= undecided
    assert sum(0.05 < area < 0.95 for area in areas) >= 2, f"the masks tell little: {areas}"
    saved = json.loads((tmp_path / "out" / "val.json").read_text(encoding="utf-8"))
    assert saved["metrics"]["oIoU"] == overall([(int(row["intersection"]), int(row["union"])) for row in rows])
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert saved["checkpoint"] == {"file": str(checkpoint), "sha256": digest}
    assert sum(family["samples"] for family in saved["families"].values()) == 22
