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
from coupalign.model import build_model
from coupalign.training.optimizer import freeze, make_optimizer
from coupalign.training.step import TrainStep
from tests.conftest import assert_close


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
    keys = config.training
    if step < keys.warmup_steps:
        return keys.learning_rate * step / keys.warmup_steps
    decay = keys.decay_epochs * steps_per_epoch - keys.warmup_steps
    left = 1 - min(step - keys.warmup_steps, decay) / decay
    return keys.end_learning_rate + (keys.learning_rate - keys.end_learning_rate) * left**keys.decay_power


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


class Reference:
    """PyTorch's AdamW in float64 on the weight and bias of a Quadratic, with a weight decay and rate for each."""

    def __init__(self, objective, decays, scales=(1, 1)):
        start = (objective.weight, objective.bias)
        self.pair = [torch.nn.Parameter(torch.tensor(each.asnumpy().astype(np.float64))) for each in start]
        groups = [{"params": [each], "weight_decay": decay} for each, decay in zip(self.pair, decays, strict=True)]
        self.optimizer, self.scales = torch.optim.AdamW(groups), scales

    def update(self, image, mask, learning_rate, max_grad_norm) -> float:
        self.optimizer.zero_grad()
        loss = sum((each**2 * torch.tensor(x)).sum() for each, x in zip(self.pair, (image, mask), strict=True))
        loss.backward()
        if max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.pair, max_grad_norm)
        for group, scale in zip(self.optimizer.param_groups, self.scales, strict=True):
            group["lr"] = learning_rate * scale
        self.optimizer.step()
        return loss.item()

    def compare(self, objective) -> None:
        for found, expected in zip((objective.weight, objective.bias), self.pair, strict=True):
            assert_close(found, expected.detach().numpy(), relative=1e-4)


@pytest.mark.parametrize(("max_grad_norm", "parts"), [(0.0, 1), (0.5, 1), (0.5, 3)])
def test_update_is_pytorchs_adamw_with_the_papers_schedule(max_grad_norm, parts):
    """In parts, it is that of their mean, also after an update in which one of them was not finite."""
    keys = {"learning_rate": 0.1, "end_learning_rate": 0.02, "weight_decay": 0.3}
    keys |= {"epochs": 3, "decay_epochs": 2, "warmup_steps": 2}
    objective = Quadratic()
    config, step = step_of(objective, max_grad_norm=max_grad_norm, parts=parts, keys=keys)
    reference = Reference(objective, (0.3, 0.0))
    random = np.random.default_rng(0)
    for number in range(14):  # the rate is constant after the tenth
        batches = [(random.standard_normal((3, 4)), random.standard_normal(4)) for _ in range(parts)]
        image, mask = (np.mean(each, 0) for each in zip(*batches, strict=True))
        loss = reference.update(image, mask, rate(number, config, 5), max_grad_norm)
        if number == 5:
            spoilt = [batches[0][0] * np.nan, batches[0][1]], *batches[1:]
            assert not step.update((tensors(*each) for each in spoilt), 0, number, range(parts))[2]
        losses, used, made = step.update((tensors(*each) for each in batches), 0, number, range(parts))
        assert float(losses[0].asnumpy()) == pytest.approx(loss, rel=1e-4, abs=1e-5)
        assert float(losses[2].asnumpy()) == pytest.approx(2 * loss, rel=1e-4, abs=2e-5)
        assert made
        assert_close(used, rate(number, config, 5), relative=1e-5)
    assert rate(13, config, 5) == config.training.end_learning_rate
    reference.compare(objective)


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
    reference = Reference(objective, (0.3, 0.4), scales=(2, 0.25))
    random = np.random.default_rng(0)
    for number in range(12):
        image, mask = random.standard_normal((3, 4)), random.standard_normal(4)
        reference.update(image, mask, rate(number, config, 5), 0.5)
        _, used, _ = step.update([tensors(image, mask, random.standard_normal(4))], 0, number, [0])
        assert_close(used, rate(number, config, 5), relative=1e-5)
    reference.compare(objective)
    np.testing.assert_array_equal(objective.extra.asnumpy(), np.linspace(1, 2, 4).astype(np.float32))


def test_patterns_that_match_nothing_name_the_nearest():
    objective = Three()
    for key, value, kind, call in (
        ("frozen", "fc.weights", "parameter", lambda config: freeze(objective, config.training.frozen)),
        ("learning_rate_scales", "fc.weights=1", "trainable parameter", None),
        ("weight_decays", "fc.weights=1", "trainable parameter", None),
    ):
        config = load_config(overrides={key: value})
        call = call or (lambda config: make_optimizer(config.training, objective.trainable_params(), 5))
        with pytest.raises(UserError, match=f"{key}: pattern 'fc.weights' matches no {kind} .*fc.weight\\b"):
            call(config)
    freeze(objective, ["fc.*"])
    names = [each.name for each in objective.untrainable_params()]
    for key in ("learning_rate_scales", "weight_decays"):
        settings = load_config(overrides={key: "head.*=1,fc.*=1"}).training
        with pytest.raises(UserError, match=rf"{key} has 'fc\.\*=1'.* frozen: remove this entry"):
            make_optimizer(settings, objective.trainable_params(), 5, names)
    with pytest.raises(UserError, match=r"frozen \* leaves no trainable"):
        freeze(objective, ["*"])


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


def test_warming_up_to_the_end_is_refused():
    config = load_config(overrides={"warmup_steps": 25 * 4})
    with pytest.raises(UserError, match="warmup_steps 100 leaves none of the 100 steps of decay_epochs 25"):
        make_optimizer(config.training, Quadratic().trainable_params(), steps_per_epoch=4)


@pytest.mark.slow
def test_importing_mindformers_changes_neither_logging_nor_environment(tmp_path):
    code = (
        "import logging, os; logging.disable(logging.ERROR)\n"
        "from mindspore import Parameter, Tensor; from coupalign.config import load_config\n"
        "from coupalign.training.optimizer import make_optimizer\n"
        "make_optimizer(load_config().training, [Parameter(Tensor([1.0]), name='fc.weight')], 100)\n"
        "assert logging.root.manager.disable == logging.ERROR and 'LOCAL_DEFAULT_PATH' not in os.environ\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "LOCAL_DEFAULT_PATH"}
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment).returncode == 0
    assert not (tmp_path / "output").exists()
