"""The image encoder against that of Hugging Face in float64, with random weights."""

from __future__ import annotations

import mindspore
import numpy as np
import pytest
import torch
from mindspore import Tensor, ops

from coupalign.config import load_config
from coupalign.model import build_model
from coupalign.model.dropout import DropPath, connect_dropout, draw
from coupalign.model.swin import SwinBlock, SwinTransformer
from coupalign.model.windows import WindowLayout
from tests.backbones import random_swin, set_weights, swin_weights
from tests.conftest import SMALLEST, assert_close

# Image size, window: sizes of the four maps.
CASES = {
    "window 7, whole windows, the last map is the window: 56 28 14 7": (224, 7),
    "window 7, padded 24 12, smaller than the window 6 3": (96, 7),
    "window 12, padded 56 28 14, smaller than the window 7": (224, 12),
    "window 12, whole 48 24, the window 12, smaller 6": (192, 12),
}
SIZES = {"embed_dim": 8, "depths": [2, 3, 2, 2], "heads": [1, 2, 2, 4]}


def pair(image_size: int, window: int):
    """The same encoder by Hugging Face and by us."""
    theirs = random_swin(image_size=image_size, window=window, **SIZES)
    ours = SwinTransformer(image_size=image_size, window=window, drop_path_rate=0.3, **SIZES).set_train(False)
    set_weights(ours, swin_weights(theirs))
    image = np.random.default_rng(1).standard_normal((2, 3, image_size, image_size)).astype(np.float32)
    return theirs, ours, image


@pytest.mark.parametrize(("image_size", "window"), CASES.values(), ids=CASES)
def test_every_stage_equals_hugging_face(image_size, window):
    theirs, ours, image = pair(image_size, window)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(image).double(), output_hidden_states=True)
    x = ours.patch_embed(Tensor(image))
    assert_close(x, expected.hidden_states[0], relative=1e-5)
    for layer, reference in zip(ours.layers, expected.hidden_states[1:], strict=True):
        x = layer(x)
        assert_close(x, reference, relative=1e-5)
    assert_close(ours.norm(x), expected.last_hidden_state, relative=1e-5)


def test_gradients_equal_hugging_face():
    """A padded map with shifted windows. The permutations of the tokens have hand-written gradients."""
    theirs, ours, image = pair(96, 7)
    weight = np.random.default_rng(2).standard_normal((2, 9, 64)).astype(np.float32)
    parameters = ours.trainable_params()
    run = mindspore.value_and_grad(lambda x: ops.reduce_sum(ours(x) * Tensor(weight)), 0, parameters)
    _, (of_image, of_weights) = run(Tensor(image))
    x = torch.from_numpy(image).double().requires_grad_()
    (theirs(x).last_hidden_state * torch.from_numpy(weight)).sum().backward()
    assert_close(of_image, x.grad.numpy(), relative=1e-4)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(parameter.grad)
    expected = swin_weights(theirs)
    for parameter, found in zip(parameters, of_weights, strict=True):
        if parameter.name.endswith("qkv.bias"):
            # Key biases shift all scores equally, so their gradient is only rounding.
            query, key, value = np.split(found.asnumpy(), 3)
            assert np.abs(key).max() < 1e-5 * np.abs(value).max()
            expected[parameter.name] = np.delete(expected[parameter.name].reshape(3, -1), 1, 0)
            found = np.stack([query, value])
        assert_close(found, expected[parameter.name], relative=1e-4)


@pytest.mark.parametrize("mode", [mindspore.PYNATIVE_MODE, mindspore.GRAPH_MODE])
def test_residual_branches_are_dropped_independently_and_only_in_training(mode):
    """Attention adds 1 and the MLP 10. With half of the branches dropped, kept ones count twice."""
    mindspore.set_context(mode=mode)
    block = SwinBlock(dim=4, heads=1, layout=WindowLayout(2, 2), shifted=False, drop_path=0.5)
    for name, parameter in block.parameters_dict().items():
        value = {"attn.proj.bias": 1.0, "mlp.fc2.bias": 10.0}.get(name, 0.0)
        parameter.set_data(Tensor(np.full(parameter.shape, value, np.float32)))
    x = Tensor(np.zeros((64, 4, 4), np.float32))
    assert (block.set_train(False)(x).asnumpy() == 11).all()
    draws = connect_dropout(block, 64)
    draws.set_data(draw(0, 0, draws))
    dropped = block.set_train(True)(x).asnumpy()
    assert set(dropped.flat) == {0, 2, 20, 22}
    assert (dropped == dropped[:, :1, :1]).all(), "whole samples are dropped"


def test_drop_path_grows_as_hugging_face_has_it():
    theirs = random_swin(image_size=64, window=4, drop_path_rate=0.3, **SIZES)
    ours = SwinTransformer(image_size=64, window=4, drop_path_rate=0.3, **SIZES)
    expected = [getattr(block.drop_path, "drop_prob", 0.0) for stage in theirs.encoder.layers for block in stage.blocks]
    found = [cell.rate for _, cell in ours.cells_and_names() if isinstance(cell, DropPath)]
    assert_close(found[::2], expected, relative=1e-6)
    assert found[::2] == found[1::2], "both branches of a block alike"


def test_each_head_may_start_by_looking_at_another_neighbour():
    """With equal queries and keys, attention is a Gaussian around one neighbour."""
    sizes = {"image_size": 128, "swin_window_size": 4, "swin_num_heads": [4, 4, 4, 8], "swin_embed_dim": 8}
    config = load_config(overrides={**SMALLEST, **sizes, "swin_bias_start": "neighbours"})
    places = np.stack(np.divmod(np.arange(16), 4), 1)  # of the 16 tokens of a window
    centre = 5
    for stage, heads in zip(build_model(config).image_encoder.layers, config.model.swin_num_heads):
        attention = stage.blocks[0].attn
        table = attention.relative_position_bias_table.asnumpy()
        bias = table[attention.relative_position.asnumpy()].reshape(16, 16, heads)
        looked_at = places[bias[centre].argmax(0)] - places[centre]
        assert len({tuple(each) for each in looked_at}) == heads
        assert sorted((looked_at**2).sum(1)) == [1, 1, 1, 1, 2, 2, 2, 2][:heads]
        for head, step in enumerate(looked_at):
            distance = ((places[None] - places[:, None] - step) ** 2).sum(-1)
            assert np.array_equal(bias[..., head], -distance)
