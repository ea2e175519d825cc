"""Evaluation of expressions without a target: what the model says does not exist, and the metrics of gRefCOCO."""

from __future__ import annotations

import json

import numpy as np
import pytest
from mindspore import Tensor

from tests.conftest import read_csv
from tests.test_evaluate import SAMPLES, FakeSplit, Forward, counted, overall, scored


class Judging(Forward):
    """As Forward, with an existence logit that is positive for words of odd rows."""

    def __call__(self, image, token_ids, token_mask):
        logits = super().__call__(image, token_ids, token_mask)
        odd = token_ids.asnumpy()[:, 1] % 2 == 0
        return logits, Tensor(np.where(odd, 2, -2).astype(np.float32))


@pytest.mark.parametrize("resolution", ["original", "input"])
def test_masks_of_what_does_not_exist_are_empty(tmp_path, resolution):
    """Rows 0 and 1 have no target; the model says that nothing fits in rows 0, 2, 4, 6 and 8."""
    split = FakeSplit()
    for row in (0, 1):
        split.targets[row][:] = split.input_targets[row][:] = False
    split.input_targets[3][:] = False  # resizing lost its target
    result = scored(split, Judging(), shuffled=True, existence=True, eval_resolution=resolution)
    counts = [counted(split, k, k, 0.5, resolution) for k in range(SAMPLES)]
    areas = [int((split.targets if resolution == "original" else split.input_targets)[k].sum()) for k in range(SAMPLES)]
    expected = [counts[k] if k % 2 else (0, areas[k]) for k in range(SAMPLES)]
    assert result.metrics["oIoU"] == overall(expected)
    found = result.generalised["all"]
    assert (found["N-acc"], found["T-acc"], found["no_target"], found["samples"]) == (1 / 2, 4 / 8, 2, SAMPLES)
    ious = [i / u if u else 1.0 for i, u in expected]
    assert found["gIoU"] == pytest.approx(sum(ious) / SAMPLES) and found["cIoU"] == overall(expected)
    assert found["Pr@0.5"] == sum(iou > 0.5 for iou in ious[2:]) / 8
    kept = result.generalised["baseline: mask without the existence output"]
    assert (kept["N-acc"], kept["T-acc"], kept["cIoU"]) == (0, 1, overall(counts))
    empty = result.generalised["baseline: always empty"]
    assert (empty["N-acc"], empty["T-acc"], empty["gIoU"], empty["cIoU"]) == (1, 0, 2 / 10, 0)
    assert {"attribute", "negation", "baseline: shuffled expressions"} <= set(result.generalised)
    result.save(tmp_path)
    saved = json.loads((tmp_path / "val.json").read_text(encoding="utf-8"))
    assert saved["generalised"] == result.generalised and "2 samples without a target" in saved["generalised_protocol"]
    rows = read_csv(tmp_path / "val.csv")
    assert [row["answered"] for row in rows] == ["0", "1"] * 5 and [row["exists"] for row in rows] == ["0"] * 2 + [
        "1"
    ] * 8
    line = next(line for line in result.table().splitlines() if line.startswith("baseline: always empty"))
    assert line.split()[3:8] == ["10", "20.00", "0.00", "100.00", "0.00"]


def test_generalised_metrics_appear_only_where_something_may_not_exist(tmp_path):
    result = scored()
    result.save(tmp_path)
    assert "gIoU" not in result.table() and "generalised" not in (tmp_path / "val.json").read_text()
    assert "exists" not in read_csv(tmp_path / "val.csv")[0]
    split = FakeSplit()
    split.targets[4][:] = False
    assert scored(split).generalised["all"]["no_target"] == 1


def test_a_threshold_of_existence_of_0_empties_no_mask():
    result = scored(forward=Judging(), existence=True, existence_threshold=0)
    assert result.metrics == scored().metrics and result.generalised["all"]["T-acc"] == 1
