"""What a step keeps besides the weights: statistics, averages, the loss scale; and steps that are not finite."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import nn

from coupalign.model.dropout import Dropout
from coupalign.training import step as step_module
from tests.conftest import assert_close
from tests.test_training import Quadratic, step_of, tensors


class Normed(Quadratic):
    """Quadratic after a batch norm, whose statistics a batch changes in the forward pass already, and dropout."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(2)
        self.dropout = Dropout(0.5)

    def construct(self, image, token_ids, token_mask, mask):
        image = self.dropout(self.norm(image.reshape(3, 2, 2, 1)).reshape(3, 4))
        return super().construct(image, token_ids, token_mask, mask)


def test_shared_statistics_reach_a_step_that_is_compiled(monkeypatch):
    """An update that is not finite goes back to them, and the next one starts from them."""
    _, step = step_of(Normed(), keys={"learning_rate": 0.1, "end_learning_rate": 0.0})
    step.set_train()
    image = np.random.default_rng(0).standard_normal((3, 4))

    def statistics():
        named = step.state().items()
        return {name: each.asnumpy().copy() for name, each in named if name.endswith(("moving_mean", "variance"))}

    assert step.update([tensors(image, np.ones(4))], 0, 0, [0])[2]
    before = statistics()
    assert len(before) == 4 and sum(name.startswith("sound.") for name in before) == 2
    monkeypatch.setattr(step_module.devices, "rank_count", lambda: 2)
    # as if the other rank had twice as much
    monkeypatch.setattr(step_module.devices, "all_reduce_sum", lambda each: 3 * each)
    step.average_statistics()
    assert not step.update([tensors(image * np.inf, np.ones(4))], 0, 1, [0])[2]
    for name, value in statistics().items():
        np.testing.assert_allclose(value, 1.5 * before[name], rtol=1e-6)
    assert step.update([tensors(image, np.ones(4))], 0, 2, [0])[2]
    after = statistics()
    for name, value in after.items():
        assert np.abs(value - 1.5 * before[name]).max() > 1e-3
        np.testing.assert_array_equal(value, after[name.removeprefix("sound.")])


def test_a_step_that_is_not_finite_changes_nothing():
    """1e30: the loss is finite in float32, and the gradients' norm is not."""
    images = np.random.default_rng(0).standard_normal((5, 3, 4)).astype(np.float32)
    ends = []
    for poisons in ({}, {1: np.nan, 2: np.inf, 3: 1e30}):
        _, step = step_of(Normed(), max_grad_norm=0.5, keys={"learning_rate": 0.1, "end_learning_rate": 0.0})
        step.set_train()
        for number in sorted({0, 4, *poisons}):
            mask = np.full(4, poisons.get(number, 1.0), np.float32)
            made = bool(step.update([tensors(images[number], mask)], 0, number, [0])[2])
            assert made == (number not in poisons)
        ends.append({name: each.asnumpy() for name, each in step.state().items()})
    assert int(ends[0]["global_step"]) == 2 and np.abs(ends[0]["norm.moving_mean"]).max() > 0
    for name, value in ends[0].items():
        np.testing.assert_array_equal(ends[1][name], value, err_msg=name)


def test_dropout_follows_seed_step_and_place_in_the_batch():
    _, step = step_of(Normed(), keys={"learning_rate": 1e-12, "end_learning_rate": 0.0})
    step.set_train()
    batch = tensors(np.random.default_rng(0).standard_normal((3, 4)), np.ones(4))
    draws = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 3), (0, 0, 0))
    losses = [float(step.update([batch], seed, number, [first])[0][0]) for seed, number, first in draws]
    assert losses[0] == pytest.approx(losses[-1], rel=1e-6) and len({round(loss, 4) for loss in losses}) == 4


def test_averaged_weights():
    """Against NumPy; an update that is not made leaves them, and outside of the block the model has its own."""
    _, step = step_of(Normed(), keys={"learning_rate": 0.1, "end_learning_rate": 0.0, "ema_decay": 0.3})
    step.set_train()
    random = np.random.default_rng(0)
    names = {name for name in step.state() if name.startswith(("fc.", "norm."))}
    expected = {name: step.state()[name].asnumpy().astype(np.float64) for name in names}
    updates = 0
    for number in range(6):
        mask = np.full(4, np.nan if number == 2 else 1.0)
        step.update([tensors(random.standard_normal((3, 4)), mask)], 0, number, [0])
        if number != 2:
            updates += 1
            share = 1 - min(0.3, (1 + updates) / (10 + updates))  # the second from the third update on
            expected = {name: each + share * (step.state()[name].asnumpy() - each) for name, each in expected.items()}
        for name, each in expected.items():
            assert_close(step.state()[f"average.{name}"], each, relative=1e-5)
    own = {name: step.state()[name].asnumpy().copy() for name in names}
    with pytest.raises(KeyboardInterrupt), step.averaged():
        for name, each in expected.items():
            assert_close(step.state()[name], each, relative=1e-5)
            assert np.abs(own[name] - each).max() > 1e-4
        raise KeyboardInterrupt
    for name, each in own.items():
        np.testing.assert_array_equal(step.state()[name].asnumpy(), each)


def test_training_goes_on_after_averaged_weights_as_if_they_had_not_been_looked_at():
    batches = [np.random.default_rng(number).standard_normal((3, 4)) for number in range(4)]
    ends = []
    for looks in (False, True):
        _, step = step_of(Normed(), keys={"learning_rate": 0.1, "end_learning_rate": 0.0, "ema_decay": 0.3})
        step.set_train()
        losses = []
        for number, batch in enumerate(batches):
            losses.append(float(step.update([tensors(batch, np.ones(4))], 0, number, [0])[0][0].asnumpy()))
            if looks and number in (0, 2):
                with step.averaged():
                    pass
        ends.append([losses, *({name: each.asnumpy().copy() for name, each in step.state().items()}).values()])
    for alone, looked in zip(*ends, strict=True):
        np.testing.assert_array_equal(looked, alone)


class Half(Quadratic):
    """The sum of w * image * 2^-30 and b * mask, with gradients that pass through float16."""

    def construct(self, image, token_ids, token_mask, mask):
        small = (self.weight.astype("float16").astype("float32") * image).sum() * 2.0**-30
        loss = small + (self.bias.astype("float16").astype("float32") * mask).sum()
        return loss, loss, loss


def test_loss_scale(monkeypatch):
    """It is halved, down to 1, and doubled after three updates; 2^-30 is nothing in float16."""
    monkeypatch.setattr(step_module, "INITIAL_LOSS_SCALE", 2.0**16)
    monkeypatch.setattr(step_module, "LOSS_SCALE_WINDOW", 3)
    _, step = step_of(Half(), scales_loss=True, keys={"learning_rate": 1e-9, "end_learning_rate": 0.0})
    state, image = step.state(), np.full((3, 4), 3.0)
    scale, moment = state["loss_scale"], state["adam_m.fc.weight"]

    def made(number: float) -> tuple[bool, float]:
        finite = step.update([tensors(image, np.full(4, number))], 0, 0, [0])[2]
        return bool(finite), float(scale.asnumpy())

    # 3 * 2^15 is above float16's 65504, 3 * 2^14 is not.
    assert [made(3.0) for _ in range(6)] == [
        (False, 2.0**15),
        (False, 2.0**14),
        (True, 2.0**14),
        (True, 2.0**14),
        (True, 2.0**15),
        (False, 2.0**14),
    ]
    assert_close(moment, (1 - 0.9**3) * image * 2.0**-30, relative=1e-3)
    assert [made(3.0), made(np.nan), made(3.0), made(3.0), made(3.0)] == [
        (True, 2.0**14),
        (False, 2.0**13),
        (True, 2.0**13),
        (True, 2.0**13),
        (True, 2.0**14),
    ]
    assert [made(np.inf)[1] for _ in range(16)] == [max(2.0 ** (13 - k), 1.0) for k in range(16)]
    assert int(state["loss_scale_counter"].asnumpy()) == 0 and int(state["global_step"].asnumpy()[0]) == 7
