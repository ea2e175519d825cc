"""Set prediction against a plain NumPy reference, and the positions that queries start from."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor
from scipy.special import expit

from coupalign.config import ConfigError, load_config
from coupalign.loss import ObjectLoss
from coupalign.model.positions import anchor_points, grid_points, sine_encoding

RNG = np.random.default_rng


def case(seed, batch=2, proposals=5, objects=3, size=8):
    """Logits, weights, objects (the last of the first image is missing), and a mask that is the second object."""
    rng = RNG(seed)
    logits = 3 * rng.standard_normal((batch, proposals, size, size))
    weights = rng.dirichlet(np.ones(proposals), batch)
    owner = rng.integers(-1, objects, (batch, size, size))
    masks = (owner[:, None] == np.arange(objects)[:, None, None]).astype(float)
    masks[0, -1] = 0
    mask = masks[:, 1].repeat(4, 1).repeat(4, 2)
    return tuple(each.astype(np.float32) for each in (logits, weights, masks, mask))


def pair_losses(logits, masks):
    """BCE + Dice of each object with each proposal, (K, N), float64."""
    x, t = logits.reshape(len(logits), -1).astype(np.float64), masks.reshape(len(masks), -1).astype(np.float64)
    p = expit(x)
    bce = np.array([[-(o * np.log(q) + (1 - o) * np.log(1 - q)).mean() for q in p] for o in t])
    dice = np.array([[1 - (2 * (o * q).sum() + 1) / (o.sum() + q.sum() + 1) for q in p] for o in t])
    return bce + dice


def reference(logits, weights, masks, anchors, targets):
    """Mean loss of the matched pairs; mean cross entropy of the weights with the proposals of the objects `targets`."""
    losses, choices = [], []
    for x, w, objects in zip(logits, weights, masks):
        pairs = pair_losses(x, objects)
        cost = pairs.copy()
        size = objects.shape[-1]
        for k, each in enumerate(objects):
            if each.any():
                y, x_ = ((np.nonzero(each)[axis] + 0.5).mean() / size for axis in (0, 1))
                cost[k] += np.abs(anchors - [y, x_]).sum(1)
            else:
                cost[k] = np.inf
        choice = []
        while np.isfinite(cost).any():
            k, n = np.unravel_index(cost.argmin(), cost.shape)
            losses.append(pairs[k, n])
            if k in targets:
                choice.append(-np.log(w[n]))
            cost[k], cost[:, n] = np.inf, np.inf
        choices.append(np.mean(choice) if choice else 0.0)
    return np.mean(losses), np.mean(choices)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_losses_of_matched_pairs(seed):
    logits, weights, masks, mask = case(seed)
    anchors = anchor_points(5)
    found = ObjectLoss(anchors, 1.0, 1.0)(*map(Tensor, (logits, weights, masks, mask)))[1:]
    expected = reference(logits, weights, masks, anchors, targets={1})
    np.testing.assert_allclose([float(each.asnumpy()) for each in found], expected, rtol=1e-4)


def test_each_loss_has_its_weight():
    given = [Tensor(each) for each in case(3)]
    both, masks, choice = (float(each.asnumpy()) for each in ObjectLoss(anchor_points(5), 0.5, 2.0)(*given))
    np.testing.assert_allclose(both, 0.5 * masks + 2 * choice, rtol=1e-5)


def test_a_referent_that_is_no_object_asks_for_no_choice():
    logits, weights, masks, mask = case(4)
    other = np.zeros_like(mask)
    other[:, :4, :4] = 1
    masks[:, :, 0, 0] = 0
    choice = ObjectLoss(anchor_points(5), 1.0, 1.0)(*map(Tensor, (logits, weights, masks, other)))[2]
    assert float(choice.asnumpy()) == 0


def test_several_targets_share_the_choice_evenly_and_none_asks_for_none():
    logits, weights, masks, _ = case(6, objects=4, size=16)
    masks[1, 0, :12] = 1  # three quarters of the mask, so that it alone has an IoU above 0.5 with the mask
    masks[1, 1:, :12] = 0
    anchors = anchor_points(5)
    for targets in ({0, 2}, {0, 1, 2}, set()):
        mask = masks[:, sorted(targets)].sum(1).repeat(4, 1).repeat(4, 2)
        found = ObjectLoss(anchors, 1.0, 1.0)(*map(Tensor, (logits, weights, masks, mask)))[1:]
        expected = reference(logits, weights, masks, anchors, targets)
        np.testing.assert_allclose([float(each.asnumpy()) for each in found], expected, rtol=1e-4)


def test_an_object_within_the_referent_is_not_named():
    """Such as a tie: the mask is exactly the person's."""
    logits, weights, masks, _ = case(7)
    masks[:, 2] = masks[:, 1]
    masks[:, 2, :4] = 0
    mask = masks[:, 1].repeat(4, 1).repeat(4, 2)
    anchors = anchor_points(5)
    choice = ObjectLoss(anchors, 1.0, 1.0)(*map(Tensor, (logits, weights, masks, mask)))[2]
    np.testing.assert_allclose(float(choice.asnumpy()), reference(logits, weights, masks, anchors, {1})[1], rtol=1e-4)


def test_more_objects_than_proposals():
    logits, weights, masks, mask = case(5, proposals=2)
    anchors = anchor_points(2)
    found = ObjectLoss(anchors, 1.0, 1.0)(*map(Tensor, (logits, weights, masks, mask)))[1:]
    expected = reference(logits, weights, masks, anchors, targets={1})
    np.testing.assert_allclose([float(each.asnumpy()) for each in found], expected, rtol=1e-4)


@pytest.mark.parametrize("count", [5, 20, 100])
def test_anchors_cover_the_image(count):
    anchors = anchor_points(count)
    farthest = np.abs(grid_points(16)[:, None] - anchors).max(-1).min(1).max()
    assert farthest < 1.1 / np.sqrt(count)
    assert 0 <= anchors.min() and anchors.max() < 1


@pytest.mark.parametrize(("dim", "heads"), [(64, 4), (256, 8), (24, 1), (16, 2)])
def test_encodings_are_most_similar_at_the_same_place_in_every_head(dim, heads):
    encoding = sine_encoding(grid_points(6), dim, heads).reshape(36, heads, -1)
    np.testing.assert_allclose(np.square(encoding).mean(), 1, rtol=1e-4)
    for head in range(heads):
        assert ((encoding[:, head] @ encoding[:, head].T).argmax(1) == np.arange(36)).all()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"object_loss_weight": 1.0, "sma": False}, "object_loss_weight needs mask proposals"),
        ({"choice_loss_weight": 1.0}, "needs the matches of object_loss_weight"),
        ({"object_loss_weight": 1.0, "max_objects": 33}, "give at most 32"),
        ({"query_anchors": True, "decoder_heads": 128}, "lower decoder_heads"),
    ],
)
def test_keys_that_contradict_each_other(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(overrides=overrides)
