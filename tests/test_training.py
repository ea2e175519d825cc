"""Training: the update against PyTorch's, and the schedule against its formula."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from mindspore import Parameter, Tensor, nn

from src.config import load_config
from src.context import set_up
from src.errors import UserError
from src.loss import PixelContrastiveLoss
from src.model import build_model
from src.model.dropout import Dropout, draw
from src.training.optimizer import make_optimizer
from src.training.step import Objective, TrainStep
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
    if step < config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    decay = config.decay_epochs * steps_per_epoch - config.warmup_steps
    left = 1 - min(step - config.warmup_steps, decay) / decay
    return config.end_learning_rate + (config.learning_rate - config.end_learning_rate) * left ** config.decay_power


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.5])
def test_update_is_pytorchs_adamw_with_the_papers_schedule(max_grad_norm):
    config = load_config(overrides={"learning_rate": 0.1, "end_learning_rate": 0.02, "epochs": 3, "decay_epochs": 2,
                                    "warmup_steps": 2, "weight_decay": 0.3})
    set_up(config)
    objective = Quadratic()
    step = TrainStep(objective, make_optimizer(config, objective.trainable_params(), steps_per_epoch=5), max_grad_norm, 3)
    weight, bias = (torch.nn.Parameter(torch.tensor(each.asnumpy().astype(np.float64)))
                    for each in (objective.weight, objective.bias))
    reference = torch.optim.AdamW([{"params": [weight], "weight_decay": 0.3}, {"params": [bias], "weight_decay": 0.0}])
    random = np.random.default_rng(0)
    for number in range(14):  # the rate is constant after the tenth
        image, mask = random.standard_normal((3, 4)), random.standard_normal(4)
        loss = (weight ** 2 * torch.tensor(image)).sum() + (bias ** 2 * torch.tensor(mask)).sum()
        reference.zero_grad()
        loss.backward()
        if max_grad_norm:
            torch.nn.utils.clip_grad_norm_([weight, bias], max_grad_norm)
        for group in reference.param_groups:
            group["lr"] = rate(number, config, 5)
        reference.step()
        losses, used, made = step(*(Tensor(each.astype(np.float32)) for each in (image, image, image, mask)))
        assert_close(losses[0], loss.item(), relative=1e-4)
        assert_close(losses[2], 2 * loss.item(), relative=1e-4)
        assert made
        assert_close(used, rate(number, config, 5), relative=1e-5)
    assert rate(13, config, 5) == config.end_learning_rate
    assert_close(objective.weight, weight.detach().numpy(), relative=1e-4)
    assert_close(objective.bias, bias.detach().numpy(), relative=1e-4)


def test_a_step_puts_the_model_into_training_mode():
    """Seen in the statistics of batch normalisation, which a forward pass moves in training and at no other time."""
    config = load_config(overrides={**SMALLEST, "learning_rate": 1e-3})
    set_up(config)
    model = TinyModel()
    optimizer = make_optimizer(config, model.trainable_params(), steps_per_epoch=5)
    step = TrainStep(Objective(model, PixelContrastiveLoss(), 0.0), optimizer, 0.0, 4)
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


class Dropping(Quadratic):
    """Quadratic of what dropout leaves of an image."""

    def __init__(self):
        super().__init__()
        self.dropout = Dropout(0.5)

    def construct(self, image, token_ids, token_mask, mask):
        return super().construct(self.dropout(image), token_ids, token_mask, mask)


def test_dropout_acts_and_follows_the_step():
    config = load_config(overrides={"learning_rate": 1e-12, "end_learning_rate": 0.0})
    set_up(config)
    objective = Dropping()
    step = TrainStep(objective, make_optimizer(config, objective.trainable_params(), steps_per_epoch=5), 0.0, 3)
    losses = []
    for mode, number in ((True, 0), (True, 1), (True, 0), (False, 0), (False, 1)):
        step.set_train(mode)
        step.draws.set_data(draw(config.seed, number, step.draws))
        values, *_ = step(*(Tensor(np.ones(shape, np.float32)) for shape in ((3, 4), (3, 4), (3, 4), 4)))
        losses.append(float(values[0].asnumpy()))
    assert losses[0] == pytest.approx(losses[2], rel=1e-6) and losses[3] == pytest.approx(losses[4], rel=1e-6)
    assert len({round(loss, 4) for loss in losses}) == 3


def test_weights_decay_but_biases_norms_and_tables_do_not(tiny_config):
    model = build_model(tiny_config)
    optimizer = make_optimizer(tiny_config, model.trainable_params(), steps_per_epoch=5)
    decayed = {parameter.name for parameter, decay in zip(optimizer.parameters, optimizer.weight_decay) if float(decay)}
    assert {"sma.query_proj.weight", "seg_head.rho.0.conv1.weight", "mask_generator.queries",
            "text_encoder.embeddings.word_embeddings.embedding_table"} <= decayed
    spared = {parameter.name for parameter in model.trainable_params()} - decayed
    assert {"image_encoder.layers.0.blocks.0.attn.relative_position_bias_table", "cross_attention.position_embedding",
            "text_encoder.embeddings.position_embeddings.embedding_table", "seg_head.rho.0.bn1.gamma",
            "text_encoder.embeddings.LayerNorm.beta", "wpa.0.image_gate.fc1.bias"} <= spared
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
    config = load_config(overrides={"learning_rate": 0.1, "end_learning_rate": 0.0, "decay_epochs": 1, "epochs": 1})
    set_up(config)
    random = np.random.default_rng(0)
    batches = [random.standard_normal((3, 4)).astype(np.float32) for _ in range(4)]
    ends = []
    for bad in ((), (1, 2)):
        objective = Normed()
        objective.weight.set_data(Tensor(np.linspace(-1, 1, 12).reshape(3, 4).astype(np.float32)))
        step = TrainStep(objective, make_optimizer(config, objective.trainable_params(), steps_per_epoch=9), 0.5, 3)
        step.set_train()
        made = []
        for number, batch in enumerate(batches):
            if number in (1, 2) and not bad:
                continue
            mask = np.full(4, poison if number in bad else 1.0, np.float32)
            step.draws.set_data(draw(0, number, step.draws))
            made.append(bool(step(*(Tensor(each) for each in (batch, batch, batch, mask)))[2]))
        assert made == ([True, False, False, True] if bad else [True, True])
        ends.append({name: each.asnumpy() for name, each in step.state().items()})
    assert int(ends[0]["global_step"]) == 2 and np.abs(ends[0]["norm.moving_mean"]).max() > 0
    for name, value in ends[0].items():
        np.testing.assert_array_equal(ends[1][name], value, err_msg=name)


def test_warming_up_to_the_end_is_refused(tiny_config):
    config = load_config(overrides={**tiny_config.as_dict(), "warmup_steps": 25 * 4})
    with pytest.raises(UserError, match="warmup_steps 100 leaves nothing of the 100 steps of decay_epochs 25"):
        make_optimizer(config, build_model(config).trainable_params(), steps_per_epoch=4)
