"""Recomputation with the paper's dropout and stochastic depth: the step compiles and its gradients stay the same."""

from __future__ import annotations

import mindspore
import numpy as np
import pytest
from mindspore import Tensor

from coupalign.config import load_config
from coupalign.model import build_model
from coupalign.model.dropout import draw
from coupalign.training.build import build_step
from tests.conftest import SMALLEST


@pytest.mark.slow
@pytest.mark.parametrize("cpu_kernels", [True, False])
def test_gradients_are_bit_identical(cpu_kernels):
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    random, weights, found = np.random.default_rng(0), {}, []
    image = random.standard_normal((2, 3, 64, 64)).astype(np.float32)
    words = random.integers(1, 100, (2, 8)).astype(np.int32)
    mask = random.integers(0, 2, (2, 64, 64)).astype(np.float32)
    inputs = [Tensor(each) for each in (image, words, np.ones_like(words), mask)]
    for recompute in (False, True):
        config = load_config(overrides={**SMALLEST, "cpu_kernels": cpu_kernels, "recompute": recompute})
        assert config.model.bert_dropout == 0.1 and config.model.swin_drop_path_rate == 0.3
        model = build_model(config)
        weights = weights or {name: each.asnumpy().copy() for name, each in model.parameters_dict().items()}
        mindspore.load_param_into_net(model, {name: mindspore.Parameter(each) for name, each in weights.items()})
        step = build_step(config, model, 10, 2).set_train()
        step.draws.set_data(draw(0, 0, step.draws))
        found.append([each.asnumpy() for each in step(*inputs)[1]])
    for plain, recomputed in zip(*found, strict=True):
        np.testing.assert_array_equal(recomputed, plain)
