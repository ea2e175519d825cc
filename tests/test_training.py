"""Training: the update against PyTorch's, and the schedule against its formula."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from mindspore import Parameter, Tensor, nn

from coupalign.config import load_config
from coupalign.devices import set_up
from coupalign.errors import UserError
from coupalign.loss import PixelContrastiveLoss
from coupalign.model import build_model
from coupalign.model.dropout import Dropout, draw
from coupalign.training import step as step_module
from coupalign.training.optimizer import freeze, make_optimizer
from coupalign.training.step import Objective, TrainStep
from tests.conftest import SMALLEST, assert_close
from tests.tiny_model import TinyModel


class Quadratic(nn.Cell):
    """An objective with a known gradient: the sum of w * image, and of b * mask, for parameters w and b."""

    def __init__(self):
        super().__init__()
        self.weight = Parameter(Tensor(np.linspace(-1, 1, 12).reshape(3, 4).astype(np.float32)), name="fc.weight")
        self.bias = Parameter(Tensor(np.linspace(0.5, 1, 4).astype(np.float32)), name="fc.bias")

    def construct(self, image, token_ids, token_mask, mask):
        loss = (self.weight * self.weight * image).sum() + (self.bias * self.bias * mask).sum()
        return loss, loss, loss * 2


def rate(step: int, config, steps_per_epoch: int) -> float:
    """4.1's schedule, with linear warm-up."""
    if step < config.training.warmup_steps:
        return config.training.learning_rate * step / config.training.warmup_steps
    decay = config.training.decay_epochs * steps_per_epoch - config.training.warmup_steps
    left = 1 - min(step - config.training.warmup_steps, decay) / decay
    return (
        config.training.end_learning_rate
        + (config.training.learning_rate - config.training.end_learning_rate) * left**config.training.decay_power
    )


def tensors(image, mask, words=None):
    """A batch for Quadratic, whose losses and gradients are linear in it."""
    words = image if words is None else words
    return {
        name: Tensor(each.astype(np.float32))
        for name, each in (("image", image), ("token_ids", words), ("token_mask", words), ("mask", mask))
    }


def step_of(objective, *, batch=3, max_grad_norm=0.0, parts=1, scales_loss=False, keys=None):
    """A configuration with these keys, and the step that updates an objective by it, five steps an epoch."""
    config = load_config(overrides=keys)
    set_up(config.run)
    optimizer = make_optimizer(config.training, objective.trainable_params(), steps_per_epoch=5)
    ema = config.training.ema_decay
    return config, TrainStep(objective, optimizer, max_grad_norm, batch, parts, scales_loss, ema_decay=ema)


@pytest.mark.parametrize(("max_grad_norm", "parts"), [(0.0, 1), (0.5, 1), (0.5, 3)])
def test_update_is_pytorchs_adamw_with_the_papers_schedule(max_grad_norm, parts):
    """In parts, it is that of their mean, also after an update in which one of them was not finite."""
    keys = {"learning_rate": 0.1, "end_learning_rate": 0.02, "weight_decay": 0.3}
    keys |= {"epochs": 3, "decay_epochs": 2, "warmup_steps": 2}
    objective = Quadratic()
    config, step = step_of(objective, max_grad_norm=max_grad_norm, parts=parts, keys=keys)
    weight, bias = (
        torch.nn.Parameter(torch.tensor(each.asnumpy().astype(np.float64)))
        for each in (objective.weight, objective.bias)
    )
    reference = torch.optim.AdamW([{"params": [weight], "weight_decay": 0.3}, {"params": [bias], "weight_decay": 0.0}])
    random = np.random.default_rng(0)
    for number in range(14):  # the rate is constant after the tenth
        batches = [(random.standard_normal((3, 4)), random.standard_normal(4)) for _ in range(parts)]
        image, mask = (np.mean(each, 0) for each in zip(*batches, strict=True))
        loss = (weight**2 * torch.tensor(image)).sum() + (bias**2 * torch.tensor(mask)).sum()
        reference.zero_grad()
        loss.backward()
        if max_grad_norm:
            torch.nn.utils.clip_grad_norm_([weight, bias], max_grad_norm)
        for group in reference.param_groups:
            group["lr"] = rate(number, config, 5)
        reference.step()
        if number == 5:
            spoilt = [batches[0][0] * np.nan, batches[0][1]], *batches[1:]
            assert not step.update((tensors(*each) for each in spoilt), 0, number, range(parts))[2]
        losses, used, made = step.update((tensors(*each) for each in batches), 0, number, range(parts))
        assert float(losses[0].asnumpy()) == pytest.approx(loss.item(), rel=1e-4, abs=1e-5)
        assert float(losses[2].asnumpy()) == pytest.approx(2 * loss.item(), rel=1e-4, abs=2e-5)
        assert made
        assert_close(used, rate(number, config, 5), relative=1e-5)
    assert rate(13, config, 5) == config.training.end_learning_rate
    assert_close(objective.weight, weight.detach().numpy(), relative=1e-4)
    assert_close(objective.bias, bias.detach().numpy(), relative=1e-4)


def test_a_step_puts_the_model_into_training_mode():
    """Seen in the statistics of batch normalisation, which a forward pass moves in training and at no other time."""
    model = TinyModel()
    objective = Objective(model, PixelContrastiveLoss(), 0.0)
    _, step = step_of(objective, batch=4, keys={**SMALLEST, "learning_rate": 1e-3})
    random = np.random.default_rng(0)
    image, words = Tensor(random.standard_normal((4, 3, 64, 64)).astype(np.float32)), Tensor(np.ones((4, 8), np.int32))
    mask = Tensor((random.random((4, 64, 64)) > 0.5).astype(np.float32))
    statistics = [each for each in model.get_parameters() if "moving" in each.name]
    values = [[each.asnumpy().copy() for each in statistics]]
    for training in (True, False):
        step.set_train(training)
        step(image, words, words, mask)
        values.append([each.asnumpy().copy() for each in statistics])
    start, trained, evaluated = values
    assert all(np.abs(after - before).max() > 0 for before, after in zip(start, trained, strict=True))
    for before, after in zip(trained, evaluated, strict=True):
        np.testing.assert_array_equal(before, after)


def test_shared_statistics_reach_a_step_that_is_compiled(monkeypatch):
    """Seen where a step that is not finite goes back to them, and in what is saved after one that is."""
    objective = Objective(TinyModel(), PixelContrastiveLoss(), 0.0)
    _, step = step_of(objective, batch=4, keys={**SMALLEST, "learning_rate": 1e-3, "batch_norm": "local"})
    step.set_train()
    random = np.random.default_rng(0)
    image, words = random.standard_normal((4, 3, 64, 64)), np.ones((4, 8))
    batch = {
        **tensors(image, random.random((4, 64, 64)) > 0.5),
        "token_ids": Tensor(words.astype(np.int32)),
        "token_mask": Tensor(words.astype(np.int32)),
    }
    names = [name for name in step.state() if name.endswith(("moving_mean", "moving_variance"))]

    def statistics():
        return {name: step.state()[name].asnumpy().copy() for name in names}

    assert len(names) == 4 and sum(name.startswith("sound.") for name in names) == 2
    assert step.update([batch], 0, 0, [0])[2]
    before = statistics()
    monkeypatch.setattr(step_module.devices, "rank_count", lambda: 2)
    monkeypatch.setattr(
        step_module.devices, "all_reduce_sum", lambda each: 3 * each
    )  # as if the other rank had twice as much
    step.average_statistics()
    assert not step.update([{**batch, "image": Tensor(np.float32(image * np.inf))}], 0, 1, [0])[2]
    for name, value in statistics().items():
        np.testing.assert_allclose(value, 1.5 * before[name], rtol=1e-6)
    assert step.update([batch], 0, 2, [0])[2]
    after = statistics()
    for name in names:
        assert np.abs(after[name] - 1.5 * before[name]).max() > 1e-3
        np.testing.assert_array_equal(after[name], after[name.removeprefix("sound.")])


class Three(Quadratic):
    """Quadratic with a third parameter, as many times as words say."""

    def __init__(self):
        super().__init__()
        self.extra = Parameter(Tensor(np.linspace(1, 2, 4).astype(np.float32)), name="head.scale")

    def construct(self, image, token_ids, token_mask, mask):
        loss = super().construct(image, token_ids, token_mask, mask)[0] + (self.extra * self.extra * token_ids).sum()
        return loss, loss, loss


def test_groups_are_pytorchs_and_what_is_frozen_stays():
    """The first pattern that matches counts; what is frozen takes no part in the norm that gradients are clipped to."""
    keys = {"learning_rate": 0.1, "end_learning_rate": 0.02, "weight_decay": 0.3, "epochs": 2, "decay_epochs": 2}
    keys |= {"learning_rate_scales": "fc.b*=0.25,*=2", "weight_decays": "*.bias=0.4, fc.[a-c]*=7"}
    objective = Three()
    freeze(objective, ["head.*"])
    config, step = step_of(objective, max_grad_norm=0.5, keys=keys)
    weight, bias = (
        torch.nn.Parameter(torch.tensor(each.asnumpy().astype(np.float64)))
        for each in (objective.weight, objective.bias)
    )
    reference = torch.optim.AdamW([{"params": [weight], "weight_decay": 0.3}, {"params": [bias], "weight_decay": 0.4}])
    random = np.random.default_rng(0)
    for number in range(12):
        image, mask = random.standard_normal((3, 4)), random.standard_normal(4)
        reference.zero_grad()
        ((weight**2 * torch.tensor(image)).sum() + (bias**2 * torch.tensor(mask)).sum()).backward()
        torch.nn.utils.clip_grad_norm_([weight, bias], 0.5)
        for group, scale in zip(reference.param_groups, (2, 0.25), strict=True):
            group["lr"] = rate(number, config, 5) * scale
        reference.step()
        _, used, _ = step.update([tensors(image, mask, random.standard_normal(4))], 0, number, [0])
        assert_close(used, rate(number, config, 5), relative=1e-5)
    assert_close(objective.weight, weight.detach().numpy(), relative=1e-4)
    assert_close(objective.bias, bias.detach().numpy(), relative=1e-4)
    np.testing.assert_array_equal(objective.extra.asnumpy(), np.linspace(1, 2, 4).astype(np.float32))


def test_patterns_that_match_nothing_name_the_nearest():
    objective = Three()
    for key, value, call in (
        ("frozen", "fc.weights", lambda config: freeze(objective, config.training.frozen)),
        ("learning_rate_scales", "fc.weights=1", None),
        ("weight_decays", "fc.weights=1", None),
    ):
        config = load_config(overrides={key: value})
        call = call or (lambda config: make_optimizer(config.training, objective.trainable_params(), 5))
        with pytest.raises(UserError, match=f"{key}: pattern 'fc.weights' matches no .*fc.weight\\b"):
            call(config)
    with pytest.raises(UserError, match=r"frozen \* leaves no trainable"):
        freeze(objective, ["*"])


class Dropping(Quadratic):
    """Quadratic of what dropout leaves of an image."""

    def __init__(self):
        super().__init__()
        self.dropout = Dropout(0.5)

    def construct(self, image, token_ids, token_mask, mask):
        return super().construct(self.dropout(image), token_ids, token_mask, mask)


def test_dropout_acts_and_follows_the_step():
    config, step = step_of(Dropping(), keys={"learning_rate": 1e-12, "end_learning_rate": 0.0})
    losses = []
    for mode, number in ((True, 0), (True, 1), (True, 0), (False, 0), (False, 1)):
        step.set_train(mode)
        step.draws.set_data(draw(config.run.seed, number, step.draws))
        values, *_ = step(*(Tensor(np.ones(shape, np.float32)) for shape in ((3, 4), (3, 4), (3, 4), 4)))
        losses.append(float(values[0].asnumpy()))
    assert losses[0] == pytest.approx(losses[2], rel=1e-6) and losses[3] == pytest.approx(losses[4], rel=1e-6)
    assert len({round(loss, 4) for loss in losses}) == 3


def test_weights_decay_but_biases_norms_and_tables_do_not(tiny_config):
    model = build_model(tiny_config)
    optimizer = make_optimizer(tiny_config.training, model.trainable_params(), steps_per_epoch=5)
    decayed = {parameter.name for parameter, decay in zip(optimizer.parameters, optimizer.weight_decay) if float(decay)}
    assert {
        "sma.query_proj.weight",
        "seg_head.rho.0.conv1.weight",
        "mask_generator.queries",
        "text_encoder.embeddings.word_embeddings.embedding_table",
    } <= decayed
    spared = {parameter.name for parameter in model.trainable_params()} - decayed
    assert {
        "image_encoder.layers.0.blocks.0.attn.relative_position_bias_table",
        "cross_attention.position_embedding",
        "text_encoder.embeddings.position_embeddings.embedding_table",
        "seg_head.rho.0.bn1.gamma",
        "text_encoder.embeddings.LayerNorm.beta",
        "wpa.0.image_gate.fc1.bias",
    } <= spared
    assert not [name for name in spared if name.endswith(".weight")]


class Normed(Quadratic):
    """Quadratic after a batch norm, whose statistics a batch changes in the forward pass already, and dropout."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(2)
        self.dropout = Dropout(0.5)

    def construct(self, image, token_ids, token_mask, mask):
        image = self.dropout(self.norm(image.reshape(3, 2, 2, 1)).reshape(3, 4))
        return super().construct(image, token_ids, token_mask, mask)


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e30])
def test_a_step_that_is_not_finite_changes_nothing(poison):
    """1e30: the loss is finite in float32, and the gradients' norm is not."""
    random = np.random.default_rng(0)
    batches = [random.standard_normal((3, 4)).astype(np.float32) for _ in range(4)]
    ends = []
    for bad in ((), (1, 2)):
        objective = Normed()
        objective.weight.set_data(Tensor(np.linspace(-1, 1, 12).reshape(3, 4).astype(np.float32)))
        _, step = step_of(objective, max_grad_norm=0.5, keys={"learning_rate": 0.1, "end_learning_rate": 0.0})
        step.set_train()
        made = []
        for number, batch in enumerate(batches):
            if number in (1, 2) and not bad:
                continue
            mask = np.full(4, poison if number in bad else 1.0, np.float32)
            made.append(bool(step.update([tensors(batch, mask)], 0, number, [0])[2]))
        assert made == ([True, False, False, True] if bad else [True, True])
        ends.append({name: each.asnumpy() for name, each in step.state().items()})
    assert int(ends[0]["global_step"]) == 2 and np.abs(ends[0]["norm.moving_mean"]).max() > 0
    for name, value in ends[0].items():
        np.testing.assert_array_equal(ends[1][name], value, err_msg=name)


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


def test_warming_up_to_the_end_is_refused(tiny_config):
    config = load_config(overrides={**tiny_config.as_dict(), "warmup_steps": 25 * 4})
    with pytest.raises(UserError, match="warmup_steps 100 leaves none of the 100 steps of decay_epochs 25"):
        make_optimizer(config.training, build_model(config).trainable_params(), steps_per_epoch=4)


def test_importing_mindformers_changes_neither_logging_nor_environment(tmp_path):
    code = (
        "import logging, os; logging.disable(logging.ERROR)\n"
        "from coupalign.training.optimizer import _quiet_import\n"
        "with _quiet_import():\n    import coupalign.training.adamw\n"
        "assert logging.root.manager.disable == logging.ERROR and 'LOCAL_DEFAULT_PATH' not in os.environ\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "LOCAL_DEFAULT_PATH"}
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment).returncode == 0
    assert not (tmp_path / "output").exists()
