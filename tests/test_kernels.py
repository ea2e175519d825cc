"""The CPU kernels against PyTorch in float64, and a model with kernels against one without."""

from __future__ import annotations

import ctypes

import mindspore
import numpy as np
import pytest
import torch
from mindspore import Tensor, nn, ops

from coupalign.config import load_config
from coupalign.kernels import build, use_kernels, use_kernels_in_update
from coupalign.kernels.cells import (
    KernelClip,
    KernelGelu,
    KernelNorm,
    KernelScaledDotProductAttention,
    KernelSwinBlock,
    KernelWindowAttention,
)
from coupalign.model import build_model
from coupalign.model.bert import BertLayer
from coupalign.model.dropout import Dropout, connect_dropout, draw
from coupalign.model.layers import Gelu, ScaledDotProductAttention
from coupalign.model.swin import SwinBlock, WindowAttention
from coupalign.model.windows import WindowLayout
from coupalign.training.update import Clip
from tests.conftest import SMALLEST, assert_close

PLAIN = {Gelu, nn.LayerNorm, SwinBlock, WindowAttention}
KERNELS = {KernelGelu, KernelScaledDotProductAttention, KernelNorm, KernelSwinBlock, KernelWindowAttention}
# Rows and columns: one part and several, whole vectors and not; in the last, each row is a part.
SHAPES = [(1, 1), (5, 7), (3, 33), (2000, 24), (700, 96), (2, 40_000)]


def call(function: str, inputs: list[np.ndarray], outputs: list[tuple[int, ...]]) -> list[np.ndarray]:
    """Calls a kernel as MindSpore does. Outputs start as NaN, so that each must be written."""
    arrays = [np.ascontiguousarray(each, np.float32) for each in inputs]
    arrays += [np.full(shape, np.nan, np.float32) for shape in outputs]
    shapes = [np.array(each.shape, np.int64) for each in arrays]
    data = (ctypes.c_void_p * len(arrays))(*(each.ctypes.data for each in arrays))
    ranks = (ctypes.c_int * len(arrays))(*(each.ndim for each in arrays))
    sizes = (ctypes.c_void_p * len(arrays))(*(each.ctypes.data for each in shapes))
    library = ctypes.CDLL(str(build.library()))
    assert library[function](len(arrays), data, ranks, sizes, None, None, None) == 0
    return arrays[len(inputs) :]


def by_pytorch(function, inputs: list[np.ndarray], gradient: np.ndarray) -> list[np.ndarray]:
    """Value and gradients in float64."""
    leaves = [torch.tensor(each, dtype=torch.float64, requires_grad=True) for each in inputs]
    y = function(*leaves)
    y.backward(torch.tensor(gradient, dtype=torch.float64))
    return [y.detach().numpy(), *(each.grad.numpy() for each in leaves)]


def all_close(found, expected, relative: float) -> None:
    for each, exact in zip(found, expected, strict=True):
        assert_close(each, exact, relative)


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
    x = np.array([[np.nan, np.inf]], np.float32)
    assert np.array_equal(call("gelu", [x, np.zeros(2)], [x.shape])[0], x, equal_nan=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_gelu_with_bias(shape):
    x, bias, gradient = normal(shape, shape[1:], shape)
    expected = by_pytorch(lambda x, b: torch.nn.functional.gelu(x + b), [x, bias], gradient)
    assert_close(call("gelu", [x, bias], [shape])[0], expected[0], 2e-7)
    all_close(call("gelu_gradient", [x, bias, gradient], [shape, shape[1:]]), expected[1:], 1e-6)


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_norm(shape):
    x, gamma, beta, gradient = normal(shape, shape[1:], shape[1:], shape)
    x = 3 * x + 5
    epsilon = np.array([1e-5], np.float32)
    expected = by_pytorch(lambda x, *w: torch.nn.functional.layer_norm(x, shape[1:], *w), [x, gamma, beta], gradient)
    assert_close(call("norm", [x, gamma, beta, epsilon], [shape])[0], expected[0], 1e-6)
    outputs = call("norm_gradient", [x, gamma, epsilon, gradient], [shape, shape[1:], shape[1:]])
    all_close(outputs, expected[1:], 2e-6)


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("shape", [(4, 1, 2), (4, 3, 33), (4, 500, 96), (4, 1, 40_000)])
def test_residual(shape, samples):
    n = shape[2:]
    x, a, gradient, to_normed, bias, gamma, beta = normal(*[shape] * 4, n, n, n)
    scale = np.array([0, 2, 1, 0.5][-samples:])
    epsilon = np.array([1e-5], np.float32)

    def both(x, a, bias, gamma, beta):
        y = x + torch.tensor(scale)[:, None, None] * (a + bias)
        normed = torch.nn.functional.layer_norm(y, n, gamma, beta, 1e-5)
        return torch.stack((y, normed))

    inputs = [x, a, bias, scale]
    expected = by_pytorch(both, [x, a, bias, gamma, beta], np.stack((gradient, to_normed)))
    y, normed = call("residual_norm", [*inputs, gamma, beta, epsilon], [shape, shape])
    np.testing.assert_array_equal(call("residual", inputs, [shape])[0], y)
    assert_close(y, expected[0][0], 1e-6)
    assert_close(normed, expected[0][1], 1e-5)
    found = call("residual_norm_gradient", [y, gamma, epsilon, scale, gradient, to_normed], [shape, n, n, n])
    all_close(found, [expected[i] for i in (1, 4, 5, 3)], 1e-5)
    alone = by_pytorch(lambda x, a, bias: both(x, a, bias, 1 + 0 * bias, bias)[0], [x, a, bias], gradient)
    assert_close(call("residual_bias_gradient", [gradient, scale], [n])[0], alone[3], 1e-5)


def heads_of(query, key, value, heads: int, bias):
    """Attention in PyTorch: (B, L, D), (B, S, D) twice, bias of the scores (B, heads, L, S) -> (B, L, D)."""
    query, key, value = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (query, key, value))
    output = torch.nn.functional.scaled_dot_product_attention(query, key, value, bias)
    return output.transpose(1, 2).flatten(2)


# Items, queries, keys, heads, width of a head: one part and several, whole vectors and not.
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (3, 5, 9, 2, 3), (40, 20, 33, 2, 8), (2, 30, 30, 3, 24)])
@pytest.mark.parametrize("masks", [0, 1, 2])
def test_attention(sizes, masks):
    items, n, m, heads, width = sizes
    dim = heads * width
    query, key, value, gradient = normal((items, n, dim), (items, m, dim), (items, m, dim), (items, n, dim))
    mask = np.zeros((1, 1, m)) if masks < 2 else np.where(np.random.default_rng(1).random((items, 1, m)) < 0.3, -1e9, 0)
    mask[..., 0] = 0
    inputs = [2 * query, 2 * key, value]
    expected = by_pytorch(lambda q, k, v: heads_of(q, k, v, heads, torch.tensor(mask)[:, None]), inputs, gradient)
    inputs += [mask if masks else np.zeros(1), np.ones(heads)]
    assert_close(call("attention", inputs, [query.shape])[0], expected[0], 2e-6)
    outputs = call("attention_gradient", [*inputs, gradient], [query.shape, key.shape, value.shape])
    for actual, exact in zip(outputs, expected[1:]):
        assert np.abs(actual - exact).max() < 1e-5


# Windows, tokens, heads, width of a head, masks.
WINDOWS = [(1, 1, 1, 1, 0), (6, 5, 2, 3, 3), (64, 36, 2, 24, 4), (3, 49, 4, 32, 0), (2, 144, 1, 32, 2)]


def windows(sizes: tuple[int, ...]) -> tuple[list[np.ndarray], np.ndarray]:
    """Inputs of the kernel of window attention, and a gradient of its output."""
    count, n, heads, width, masks = sizes
    dim = heads * width
    *inputs, gradient = normal((count * n, 3 * dim), (3 * dim,), (heads, n, n), (count * n, dim))
    mask = np.where(np.random.default_rng(1).random((masks, n, n)) < 0.3, -1e9, 0.0) * (1 - np.eye(n))
    return [*inputs, mask if masks else np.zeros(1)], gradient


@pytest.mark.parametrize("sizes", WINDOWS)
def test_window_attention(sizes):
    count, n, heads, _, masks = sizes
    inputs, gradient = windows(sizes)
    mask = torch.tensor(np.tile(inputs[3], (count // masks, 1, 1)) if masks else np.zeros((1, 1, 1)))[:, None]

    def exact(product, bias, relative):
        query, key, value = (product + bias).unflatten(0, (count, n)).chunk(3, -1)
        return heads_of(query, key, value, heads, relative + mask).flatten(0, 1)

    expected = by_pytorch(exact, inputs[:3], gradient)
    assert_close(call("window_attention", inputs, [gradient.shape])[0], expected[0], 2e-6)
    outputs = call("window_attention_gradient", [*inputs, gradient], [each.shape for each in inputs[:3]])
    for actual, right in zip(outputs, expected[1:]):
        assert np.abs(actual - right).max() < 1e-5 * max(1, np.abs(right).max())


def test_threads_change_nothing():
    shape = (3000, 96)
    x, gamma, gradient = normal(shape, shape[1:], shape)
    norm = "norm_gradient", [x, gamma, np.array([1e-5], np.float32), gradient], [shape, shape[1:], shape[1:]]
    inputs, gradient = windows(WINDOWS[2])
    attention = "window_attention_gradient", [*inputs, gradient], [each.shape for each in inputs[:3]]
    one = [call(*each) for each in (norm, attention)]
    ctypes.CDLL(str(build.library())).set_threads(4)
    for _ in range(20):
        for each, before in zip((norm, attention), one):
            for now, then in zip(call(*each), before):
                np.testing.assert_array_equal(now, then)


class Layers(nn.Cell):
    """A layer of BERT, and one of the image encoder with shifted windows on a padded map."""

    def __init__(self, drop_path: float):
        super().__init__()
        self.layer = BertLayer(dim=16, heads=2, dropout=0.0)
        self.block = SwinBlock(dim=16, heads=2, layout=WindowLayout(6, 4), shifted=True, drop_path=drop_path)

    def construct(self, x: Tensor, bias: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x, bias), self.block(pixels)


@pytest.mark.parametrize(
    ("mode", "recomputed", "drop_path"),
    [
        pytest.param(mindspore.GRAPH_MODE, False, 0.0, marks=pytest.mark.slow),
        pytest.param(mindspore.GRAPH_MODE, True, 0.5, marks=pytest.mark.slow),
        (mindspore.PYNATIVE_MODE, False, 0.5),
    ],
)
def test_values_and_gradients_are_those_without(random_cell, mode, recomputed, drop_path):
    """The same branches are dropped, and none after training."""
    mindspore.set_context(mode=mode)
    inputs = [Tensor(each) for each in normal((6, 5, 16), (6, 1, 5), (6, 64, 16))]
    results = []
    for kernels in (False, True):
        cell = random_cell(Layers(drop_path), inputs=[(1,)])[0].cell
        weights = mindspore.ParameterTuple(cell.trainable_params())
        if kernels:
            use_kernels(cell, load_config().run)
        for each in (cell.layer, cell.block) if recomputed else ():
            each.recompute()
        draws = connect_dropout(cell, 6)
        draws.set_data(draw(1, 2, draws))
        of_inputs, of_weights = ops.grad(cell.set_train(), (0, 2), weights)(*inputs)
        outputs = cell(*inputs)
        results.append((*outputs, *of_inputs, ops.cat([each.ravel() for each in of_weights])))
        at_rest = cell.set_train(False)(*inputs)
        kept, kept_at_rest = (np.abs((y[1] - inputs[2]).asnumpy()).max((1, 2)) > 0 for y in (outputs, at_rest))
        assert kept_at_rest.all() and (0 < kept.sum() < 6 if drop_path else kept.all())
    all_close(results[1], results[0], 1e-5)


@pytest.mark.slow
def test_a_model_keeps_its_parameters_and_its_output():
    model = build_model(load_config(overrides=SMALLEST)).set_train(False)
    image, words = np.random.default_rng(0).standard_normal((2, 3, 64, 64)), np.full((2, 8), 7, np.int32)
    inputs = Tensor(image.astype(np.float32)), Tensor(words), Tensor(np.ones_like(words))
    expected = model(*inputs)
    parameters = model.parameters_dict()
    use_kernels(model, load_config(overrides=SMALLEST).run)
    kinds = {type(each) for _, each in model.cells_and_names()}
    assert kinds >= KERNELS and not kinds & PLAIN
    assert list(model.parameters_dict()) == list(parameters)
    assert all(each is parameters[name] for name, each in model.parameters_dict().items())
    assert_close(model(*inputs), expected, 1e-5)


def test_dropout_of_attention_stays_as_it_was():
    heads = ScaledDotProductAttention(2, Dropout(0.5))
    kernel = KernelScaledDotProductAttention(build.library(), heads)
    inputs = [Tensor(each) for each in normal((3, 5, 8), (3, 7, 8), (3, 7, 8))]
    assert_close(kernel.set_train(False)(*inputs), heads.set_train(False)(*inputs), 1e-5)
    connect_dropout(kernel, 3).set_data(draw(1, 2, connect_dropout(kernel, 3)))
    dropped, expected = kernel.set_train()(*inputs), heads.set_train()(*inputs)
    np.testing.assert_array_equal(dropped.asnumpy(), expected.asnumpy())
    assert np.abs(dropped - kernel.set_train(False)(*inputs)).max() > 0.1


@pytest.mark.parametrize("limit", [0.0, 1.5, 1e4])
def test_clip(limit):
    gradients = normal((3,), (100_000,), (1, 1), (7, 5, 2))
    norm = np.sqrt(sum((each.astype(np.float64) ** 2).sum() for each in gradients))
    scale = min(1, limit / norm) if limit else 1
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    update = nn.Cell()
    update.clip = Clip(limit)
    use_kernels_in_update(update, load_config().run)
    assert isinstance(update.clip, KernelClip)
    found, clipped = update.clip(tuple(map(Tensor, gradients)))
    assert found.shape == () and abs(float(found) / norm - 1) < 1e-6
    all_close(clipped, [scale * gradient.astype(np.float64) for gradient in gradients], 1e-6)


@pytest.mark.parametrize("overrides", [{"cpu_kernels": False}, {"precision": "fp16"}])
def test_where_they_are_not_used(overrides):
    config = load_config(overrides={**SMALLEST, **overrides})
    kinds = {type(each) for _, each in use_kernels(build_model(config), config.run).cells_and_names()}
    assert kinds >= PLAIN and not kinds & KERNELS


@pytest.mark.parametrize(
    ("variable", "value"), [("CXX", "no-such-compiler"), ("CXX", "false"), ("XDG_CACHE_HOME", "/dev/null/cache")]
)
def test_without_a_compiler_mindspores_operators_stay(variable, value, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(variable, value)
    build.library.cache_clear()
    config = load_config(overrides=SMALLEST)
    try:
        for _ in range(2):
            model = use_kernels(build_model(config), config.run)
    finally:
        build.library.cache_clear()
    assert not {type(each) for _, each in model.cells_and_names()} & KERNELS
    (record,) = caplog.records
    assert "no kernels for the CPU" in record.getMessage() and "CXX" in record.getMessage()
    assert value in record.getMessage() or variable != "CXX"
