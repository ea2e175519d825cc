"""Measures of the alignments against values computed by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from coupalign.commands import proposals as program
from coupalign.config import load_config
from coupalign.evaluation.alignment import (
    Streams,
    batches,
    correlation,
    divergence,
    mean_measures,
    relative_variance,
    score_proposals,
)
from tests.conftest import refshapes_config


def test_relative_variance():
    assert relative_variance(np.array([[1.0, 2.0], [1.0, 2.0]])) == 0
    assert relative_variance(np.array([[1.0, 0.0], [-1.0, 0.0]])) == 1
    # Means 2 and 0, variances 1 and 0, mean square (1 + 9) / 4.
    assert relative_variance(np.array([[1.0, 0.0], [3.0, 0.0]])) == pytest.approx(0.5 / 2.5)


def test_divergence():
    assert divergence(np.array([[0.3, 0.7]] * 4)) == pytest.approx(0, abs=1e-12)
    assert divergence(np.eye(3)) == pytest.approx(math.log(3))


def test_scores_of_proposals():
    target = np.array([[1, 1], [0, 0]], bool)
    other = np.array([[0, 0], [1, 0]], bool)
    missing = np.zeros((2, 2), bool)
    masks = np.array([[[9, 9], [-1, -1]], [[9, -9], [-9, -9]], [[-9, -9], [9, 9]]], float)
    weights = np.array([0.25, 0.7, 0.05])
    scores, of_each = score_proposals(masks, weights, target, np.stack([target, other, missing]), 0.5)
    np.testing.assert_allclose(of_each, [1, 0.5, 0])
    assert scores["heaviest"] == 0.5 and scores["best"] == 1
    assert scores["mean"] == 2 / 2 * 0.5 and scores["mixture"] == 0.5  # logits (3, -3, …) and (8.1, -4.5, …)
    assert scores["covered"] == 0.5  # the target; the third mask's IoU with the other is not above 0.5
    assert scores["entropy"] == pytest.approx(-(weights * np.log(weights)).sum() / math.log(3))
    assert scores["largest_weight"] == 0.7
    assert math.isnan(score_proposals(masks, weights, target, None, 0.5)[0]["covered"])


def test_correlation():
    assert correlation(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0])) == pytest.approx(1)
    assert math.isnan(correlation(np.full(3, 0.2), np.array([1.0, 2.0, 3.0])))


@pytest.mark.slow
def test_measures_of_a_model(tiny_data):
    """Against the model's own outputs, with a last batch that is not full."""
    from mindspore import Tensor

    from coupalign.data.dataset import Split
    from coupalign.inference.graph import PredictAll
    from coupalign.model import Outputs, build_model

    config = refshapes_config(str(tiny_data))
    model = build_model(config).set_train(False)
    split = Split(config, "val")
    samples = list(batches(config, split, np.arange(6)))
    assert [batch["real"].sum() for batch in samples] == [4, 2]
    found = mean_measures(Streams(model), samples, 0.5)
    assert found.samples == 6
    entropies, variances, spread = [], [], []
    for batch in samples:
        inputs = (Tensor(batch[name]) for name in ("image", "token_ids", "token_mask"))
        outputs = Outputs.from_tuple(PredictAll(model)(*inputs))
        all_weights, all_masks = outputs.weights.asnumpy(), outputs.proposals.asnumpy()
        for k in np.flatnonzero(batch["real"]):
            weights, words = all_weights[k].astype(float), batch["token_mask"][k] > 0
            entropies.append(-(weights * np.log(weights)).sum() / np.log(len(weights)))
            masks = all_masks[k].astype(float)
            variances.append(masks.var(0).mean() / np.square(masks).mean())
            spread.append(divergence(outputs.alignments[2].over_pixels.asnumpy()[k][words]))
    assert found.proposals["entropy"] == pytest.approx(np.mean(entropies), rel=1e-4)
    assert found.variance["Y_N"] == pytest.approx(np.mean(variances), rel=1e-3)
    assert found.over_pixels[3] == pytest.approx(np.mean(spread), rel=1e-3, abs=1e-7)
    assert 0 <= found.proposals["covered"] <= 1


@pytest.mark.slow
def test_the_program_prints_a_table_and_writes_json(tiny_data, tmp_path, capsys):
    """Of a model without proposals, which has fewer measures."""
    from coupalign.checkpoints.loading import save_weights
    from coupalign.model import build_model

    keys = {"sma": False, "wpa_direction": "uni", "wpa_stages": [1, 3]}
    config = refshapes_config(str(tiny_data), output_dir=str(tmp_path), eval_limit=3, **keys)
    config.save(tmp_path / "config.yaml")
    save_weights(tmp_path / "best.ckpt", build_model(config).parameters_dict())
    assert program.main(["--checkpoint", str(tmp_path / "best.ckpt"), "--split", "testA"]) == 0
    assert "refshapes testA, 3 samples" in capsys.readouterr().out
    content = json.loads((tmp_path / "eval/alignment_testA.json").read_text())
    assert content["samples"] == 3 and content["config"] == load_config(tmp_path / "config.yaml").as_dict()
    assert "covered" not in content["proposals"] and list(content["over_words"]) == ["1", "3"]
