from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from coupalign.evaluation import GeneralisedMetric, SegmentationMetric

PRECISIONS = [f"prec@0.{k}" for k in (5, 6, 7, 8, 9)]


def masks(intersection: int, union: int) -> tuple[np.ndarray, np.ndarray]:
    """Two (1, 200) masks with these counts."""
    prediction, target = np.zeros((2, 1, 200), bool)
    prediction[0, :intersection] = True
    target[0, :union] = True
    return prediction, target


def metrics(*counts: tuple[int, int]) -> dict:
    metric = SegmentationMetric()
    for pair in counts:
        metric.update(*masks(*pair))
    return metric.compute()


def test_by_hand():
    # IoU 0.5, 0.95, 0 and 1 (empty against empty).
    found = metrics((50, 100), (19, 20), (0, 40), (0, 0))
    iou = {"oIoU": 69 / 160, "mIoU": (0.5 + 0.95 + 0 + 1) / 4}
    assert found == {**iou, **dict.fromkeys(PRECISIONS, 0.5), "histogram": [1, 0, 0, 0, 0], "samples": 4}


@pytest.mark.parametrize("tenths", [5, 6, 7, 8, 9])
@pytest.mark.parametrize("scale", [1, 3, 7, 19])
def test_precision_is_strict(tenths, scale):
    # In floating point, 0.7 * 190 / 190 and the like may land on either side.
    union = 10 * scale
    assert metrics((tenths * scale, union))[f"prec@0.{tenths}"] == 0
    assert metrics((tenths * scale + 1, union))[f"prec@0.{tenths}"] == 1


@pytest.mark.parametrize("tenth", [1, 2, 3, 4, 5])
def test_bins_of_the_histogram_hold_their_lower_edge(tenth):
    bins = np.eye(5, dtype=int).tolist() + [[0] * 5]
    assert metrics((tenth * 3, 30))["histogram"] == bins[tenth]
    assert metrics((tenth * 3 - 1, 30))["histogram"] == bins[tenth - 1]


def test_counts_beyond_32_bits():
    metric = SegmentationMetric()
    metric.update_counts(np.full(3, 2**31 - 1), np.full(3, 2**31))
    assert metric.compute()["oIoU"] == (2**31 - 1) / 2**31


@pytest.mark.parametrize(
    ("prediction", "target", "error"),
    [
        (np.zeros((3, 4), bool), np.zeros((4, 3), bool), ValueError),
        (np.zeros((1, 3, 4), bool), np.zeros((3, 4), bool), ValueError),
        (np.zeros(4, bool), np.zeros(4, bool), ValueError),
        (np.zeros((1, 1, 3, 4), bool), np.zeros((1, 1, 3, 4), bool), ValueError),
        (np.zeros((3, 4)), np.zeros((3, 4), bool), TypeError),
        (np.zeros((3, 4), bool), np.zeros((3, 4), np.uint8), TypeError),
    ],
)
def test_what_is_refused_leaves_the_metric_as_it_was(prediction, target, error):
    metric = SegmentationMetric()
    with pytest.raises(error):
        metric.update(prediction, target)
    with pytest.raises(ValueError, match="no masks"):
        metric.compute()


def pairs(max_samples: int = 6):
    """Arrays (2, B, h, w) of predictions and targets."""
    return st.tuples(st.just(2), st.integers(1, max_samples), st.integers(1, 5), st.integers(1, 5)).flatmap(
        lambda shape: hnp.arrays(bool, shape)
    )


def computed(predictions, targets) -> dict:
    metric = SegmentationMetric()
    metric.update(predictions, targets)
    return metric.compute()


@settings(max_examples=200)
@given(pairs(), st.randoms())
def test_properties(arrays, random):
    predictions, targets = arrays
    found = computed(predictions, targets)

    # Pixel by pixel, from the definitions.
    both, either, ious = 0, 0, []
    for prediction, target in zip(predictions, targets):
        pixels = list(zip(prediction.ravel().tolist(), target.ravel().tolist()))
        inter, union = sum(p and t for p, t in pixels), sum(p or t for p, t in pixels)
        both, either = both + inter, either + union
        ious.append(inter / union if union else 1.0)
    assert found["oIoU"] == (both / either if either else 1.0)
    assert found["mIoU"] == pytest.approx(sum(ious) / len(ious), rel=1e-12)
    assert found["samples"] == len(predictions)
    assert sum(found["histogram"]) == sum(iou < 0.5 for iou in ious)

    shares = [found[name] for name in PRECISIONS]
    assert shares == sorted(shares, reverse=True)
    assert all(0 <= found[name] <= 1 for name in ("oIoU", "mIoU", *PRECISIONS))

    order = list(range(len(predictions)))
    random.shuffle(order)
    assert computed(predictions[order], targets[order]) == found
    assert computed(targets, predictions) == found

    one_by_one, halves = SegmentationMetric(), SegmentationMetric()
    for k in order:
        one_by_one.update(predictions[k], targets[k])
    middle = len(predictions) // 2
    for part in (slice(0, middle), slice(middle, None)):
        halves.update(predictions[part], targets[part])
    assert one_by_one.compute() == halves.compute() == found


def test_generalised_by_hand():
    """Targets with IoU 0.5, 0.95 and 0 without an answer; no targets with and without an answer."""
    metric = GeneralisedMetric()
    for pair in (masks(50, 100), masks(19, 20), masks(0, 40), masks(0, 0)):
        metric.update(*pair)
    metric.update(*reversed(masks(0, 10)))
    expected = {"gIoU": (0.5 + 0.95 + 0 + 1 + 0) / 5, "cIoU": 69 / 170, "N-acc": 1 / 2, "T-acc": 2 / 3}
    shares = {"Pr@0.5": 1 / 3, "Pr@0.6": 1 / 3, "Pr@0.7": 1 / 3, "Pr@0.8": 1 / 3, "Pr@0.9": 1 / 3}
    assert metric.compute() == {**expected, **shares, "samples": 5, "no_target": 2}
    together = GeneralisedMetric()
    pairs = [masks(50, 100), masks(19, 20), masks(0, 40), masks(0, 0), masks(0, 10)[::-1]]
    together.update(*(np.stack(each) for each in zip(*pairs)))
    assert together.compute() == metric.compute()


def test_generalised_without_a_kind_of_sample():
    for pair, undefined in ((masks(0, 0), "T-acc"), (masks(3, 4), "N-acc")):
        metric = GeneralisedMetric()
        metric.update(*pair)
        found = metric.compute()
        assert found[undefined] is None and (found["Pr@0.5"] is None) == (undefined == "T-acc")
    with pytest.raises(ValueError, match="no masks"):
        GeneralisedMetric().compute()


@settings(max_examples=100)
@given(pairs())
def test_generalised_agrees_with_the_metrics_of_the_paper(arrays):
    metric = GeneralisedMetric()
    metric.update(*arrays)
    generalised, found = metric.compute(), computed(*arrays)
    assert generalised["cIoU"] == found["oIoU"]
    assert generalised["gIoU"] == pytest.approx(found["mIoU"], rel=1e-12)
