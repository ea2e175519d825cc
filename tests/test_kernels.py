"""The CPU kernels against PyTorch in float64, and a model that computes by them against one that does not."""
from __future__ import annotations

import ctypes

import mindspore
import numpy as np
import pytest
import torch
from mindspore import Tensor, nn, ops

from src.config import load_config
from src.kernels import build, use_kernels
from src.kernels.cells import KernelGelu, KernelNorm
from src.model import build_model
from src.model.bert import BertLayer
from src.model.layers import Gelu
from tests.conftest import SMALLEST, assert_close

# Rows and columns: of one part and of several, of whole vectors and not; the last is a part a row.
SHAPES = [(1, 1), (5, 7), (3, 33), (2000, 24), (700, 96), (2, 40_000)]


def call(function: str, inputs: list[np.ndarray], outputs: list[tuple[int, ...]]) -> list[np.ndarray]:
    """Calls a kernel as MindSpore does, and sees that it writes all of its outputs."""
    arrays = [np.ascontiguousarray(each, np.float32) for each in inputs]
    arrays += [np.full(shape, np.nan, np.float32) for shape in outputs]
    shapes = [np.array(each.shape, np.int64) for each in arrays]
    data = (ctypes.c_void_p * len(arrays))(*(each.ctypes.data for each in arrays))
    ranks = (ctypes.c_int * len(arrays))(*(each.ndim for each in arrays))
    sizes = (ctypes.c_void_p * len(arrays))(*(each.ctypes.data for each in shapes))
    library = ctypes.CDLL(str(build.library()))
    assert library[function](len(arrays), data, ranks, sizes, None, None, None) == 0
    return arrays[len(inputs):]


def by_pytorch(function, inputs: list[np.ndarray], gradient: np.ndarray) -> list[np.ndarray]:
    """Value and gradients in float64."""
    leaves = [torch.tensor(each, dtype=torch.float64, requires_grad=True) for each in inputs]
    y = function(*leaves)
    y.backward(torch.tensor(gradient, dtype=torch.float64))
    return [y.detach().numpy(), *(each.grad.numpy() for each in leaves)]


def normal(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.standard_normal(shape).astype(np.float32) for shape in shapes]


def test_gelu_everywhere():
    x = np.concatenate([np.linspace(-40, 40, 200_001), [0.0, 1e-30, -1e-30, 1e10, -1e10]]).astype(np.float32)[:, None]
    one, zero = np.ones_like(x), np.zeros(1, np.float32)
    value, slope, _ = by_pytorch(lambda x, b: torch.nn.functional.gelu(x + b), [x, zero], one)
    # One unit in the last place of 1 + |x| is 1.2e-7 of it.
    assert (np.abs(call("gelu", [x, zero], [x.shape])[0] - value) / (1 + np.abs(x))).max() < 1.2e-7
    assert np.abs(call("gelu_gradient", [x, zero, one], [x.shape, (1,)])[0] - slope).max() < 5e-7


def test_gelu_keeps_what_is_not_finite():
    x = np.array([[np.nan, np.inf]], np.float32)
    assert np.array_equal(call("gelu", [x, np.zeros(2)], [x.shape])[0], x, equal_nan=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_gelu_with_bias(shape):
    x, bias, gradient = normal(shape, shape[1:], shape)
    expected = by_pytorch(lambda x, b: torch.nn.functional.gelu(x + b), [x, bias], gradient)
    assert_close(call("gelu", [x, bias], [shape])[0], expected[0], 2e-7)
    for actual, exact in zip(call("gelu_gradient", [x, bias, gradient], [shape, shape[1:]]), expected[1:]):
        assert_close(actual, exact, 1e-6)


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_norm(shape):
    x, gamma, beta, gradient = normal(shape, shape[1:], shape[1:], shape)
    x = 3 * x + 5
    epsilon = np.array([1e-5], np.float32)
    expected = by_pytorch(lambda *each: torch.nn.functional.layer_norm(each[0], shape[1:], each[1], each[2], 1e-5),
                          [x, gamma, beta], gradient)
    assert_close(call("norm", [x, gamma, beta, epsilon], [shape])[0], expected[0], 1e-6)
    outputs = call("norm_gradient", [x, gamma, epsilon, gradient], [shape, shape[1:], shape[1:]])
    for actual, exact in zip(outputs, expected[1:]):
        assert_close(actual, exact, 2e-6)


def test_threads_change_nothing():
    shape = (3000, 96)
    x, gamma, gradient = normal(shape, shape[1:], shape)
    inputs = [x, gamma, np.array([1e-5], np.float32), gradient]
    one = call("norm_gradient", inputs, [shape, shape[1:], shape[1:]])
    ctypes.CDLL(str(build.library())).set_threads(4)
    for _ in range(20):
        for before, now in zip(one, call("norm_gradient", inputs, [shape, shape[1:], shape[1:]])):
            np.testing.assert_array_equal(now, before)


class Layers(nn.Cell):
    """A layer of BERT."""

    def __init__(self):
        super().__init__()
        self.layer = BertLayer(dim=16, heads=2, dropout=0.0)

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        return self.layer(x, bias)


@pytest.mark.parametrize(("mode", "recomputed"), [
    (mindspore.GRAPH_MODE, False), (mindspore.GRAPH_MODE, True), (mindspore.PYNATIVE_MODE, False)])
def test_values_and_gradients_are_those_without(random_cell, mode, recomputed):
    mindspore.set_context(mode=mode)
    shapes = [(2, 5, 16), (2, 1, 5)]
    results = []
    for kernels in (False, True):
        wrapped, weights, inputs = random_cell(Layers(), inputs=shapes)
        cell = wrapped.cell
        if kernels:
            use_kernels(cell, load_config())
            assert sum(isinstance(each, KernelNorm) for _, each in cell.cells_and_names()) == 2
            if recomputed:
                cell.layer.recompute()
        inputs = [Tensor(each.astype(np.float32)) for each in inputs]
        gradients = ops.grad(cell, 0, mindspore.ParameterTuple(cell.trainable_params()))(*inputs)
        results.append((cell(*inputs), gradients[0], ops.cat([each.ravel() for each in gradients[1]])))
        names = list(cell.parameters_dict())
        assert names == list(weights)
    for actual, expected in zip(results[1], results[0], strict=True):
        assert_close(actual, expected, 1e-5)


def test_a_model_keeps_its_parameters_and_its_output():
    model = build_model(load_config(overrides=SMALLEST)).set_train(False)
    image, words = np.random.default_rng(0).standard_normal((2, 3, 64, 64)), np.full((2, 8), 7, np.int32)
    inputs = Tensor(image.astype(np.float32)), Tensor(words), Tensor(np.ones_like(words))
    expected = model(*inputs)
    parameters = model.parameters_dict()
    use_kernels(model, load_config(overrides=SMALLEST))
    kinds = {type(each) for _, each in model.cells_and_names()}
    assert {KernelGelu, KernelNorm} <= kinds and not {Gelu, nn.LayerNorm} & kinds
    assert list(model.parameters_dict()) == list(parameters)
    assert all(each is parameters[name] for name, each in model.parameters_dict().items())
    assert_close(model(*inputs), expected, 1e-5)


@pytest.mark.parametrize("overrides", [{"cpu_kernels": False}, {"precision": "fp16"}])
def test_where_they_are_not_used(overrides):
    config = load_config(overrides={**SMALLEST, **overrides})
    kinds = {type(each) for _, each in use_kernels(build_model(config), config).cells_and_names()}
    assert {Gelu, nn.LayerNorm} <= kinds and not {KernelGelu, KernelNorm} & kinds


@pytest.mark.parametrize(("variable", "value"), [("CXX", "no-such-compiler"), ("CXX", "false"),
                                                  ("XDG_CACHE_HOME", "/dev/null/cache")])
def test_without_a_compiler_mindspores_operators_stay(variable, value, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(variable, value)
    build.library.cache_clear()
    config = load_config(overrides=SMALLEST)
    try:
        for _ in range(2):
            model = use_kernels(build_model(config), config)
    finally:
        build.library.cache_clear()
    assert not any(isinstance(each, KernelNorm) for _, each in model.cells_and_names())
    said = capfd.readouterr().err
    assert said.startswith("warning: no kernels for the CPU") and said.count("\n") == 1 and "CXX" in said
    assert value in said or variable != "CXX"


def test_compiled_once(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = build.library.__wrapped__()
    written = first.stat().st_mtime_ns
    assert build.library.__wrapped__() == first and first.stat().st_mtime_ns == written
    assert list(tmp_path.rglob("*.*")) == [first]
