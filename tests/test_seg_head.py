from __future__ import annotations

import numpy as np
import pytest
import torch
from mindspore import ParameterTuple, Tensor, ops

from coupalign.model.batch_norm import batch_norm
from coupalign.model.resize import Upsample
from coupalign.model.seg_head import DoubleConv, SegHead
from tests import equations
from tests.conftest import assert_close


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_upsample_is_torchs_bilinear(factor, size):
    x = np.random.default_rng(0).standard_normal((2, 3, size, size)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(x).double(), scale_factor=factor, mode="bilinear", align_corners=False
    ).numpy()
    assert_close(Upsample(size=size, factor=factor)(Tensor(x)), expected, relative=1e-6)
    assert_close(equations.upsample(x, factor), expected, relative=1e-12)


def test_seg_head_is_eq_10(random_cell):
    cell = SegHead(image_dims=[3, 4, 6, 8], fused_dim=10, dim=5, size=16, statistics="local")
    shapes = [(2, 10, 2, 2), (2, 3, 16, 16), (2, 4, 8, 8), (2, 6, 4, 4), (2, 8, 2, 2)]
    head, w, (fused, *stages) = random_cell(cell, inputs=shapes)
    found = head.cell(*(Tensor(x.astype(np.float32)) for x in [fused]), [Tensor(x.astype(np.float32)) for x in stages])
    assert_close(found, equations.seg_head(fused, stages, w), relative=1e-5)


def test_training_normalises_by_the_batch_and_remembers_it(random_cell):
    double, w, x = random_cell(DoubleConv(in_dim=3, out_dim=4, statistics="local"), inputs=(2, 3, 5, 5))
    layers = [
        layer
        for width in (3, 4)
        for layer in (torch.nn.Conv2d(width, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.BatchNorm2d(4))
    ]
    reference = torch.nn.Sequential(*layers).double()
    names = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    places = {"conv1": 0, "bn1": 2, "conv2": 3, "bn2": 5}
    state = {}
    for name, value in w.items():
        part, kind = name.split(".")
        state[f"{places[part]}.{names.get(kind, kind)}"] = torch.from_numpy(value)
    reference.load_state_dict(state, strict=False)
    expected = reference(torch.from_numpy(x))
    assert_close(double.cell.set_train(True)(Tensor(x.astype(np.float32))), expected.detach().numpy(), relative=1e-5)
    for part in ("bn1", "bn2"):
        for ours in ("moving_mean", "moving_variance"):
            theirs = getattr(reference[places[part]], names[ours])
            assert_close(getattr(getattr(double.cell, part), ours), theirs.numpy(), relative=1e-5)


def test_frozen_batch_norm_trains_its_scale_and_shift_alone():
    random = np.random.default_rng(0)
    x, weight = random.standard_normal((2, 4, 3, 5, 7)).astype(np.float32)
    values = (0.5 + random.random((4, 3))).astype(np.float32)
    cell = batch_norm(3, "frozen").set_train()
    parameters = (cell.gamma, cell.beta, cell.moving_mean, cell.moving_variance)
    for parameter, value in zip(parameters, values):
        parameter.set_data(Tensor(value))
    gradient = ops.grad(lambda x: (cell(x) * Tensor(weight)).sum(), 0, ParameterTuple(parameters[:2]))
    dx, (dgamma, dbeta) = gradient(Tensor(x))
    norm = torch.nn.BatchNorm2d(3).double().eval()
    names = ("weight", "bias", "running_mean", "running_var")
    norm.load_state_dict(dict(zip(names, torch.from_numpy(values).double())), strict=False)
    given = torch.from_numpy(x).double().requires_grad_()
    y = norm(given)
    (y * torch.from_numpy(weight)).sum().backward()
    for ours, theirs in ((cell(Tensor(x)), y), (dx, given.grad), (dgamma, norm.weight.grad), (dbeta, norm.bias.grad)):
        assert_close(ours, theirs.detach().numpy(), relative=1e-5)
    assert (cell.moving_mean.asnumpy() == values[2]).all() and (cell.moving_variance.asnumpy() == values[3]).all()
