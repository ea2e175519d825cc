"""The whole model against the encoders of Hugging Face coupled by the equations of the paper."""

from __future__ import annotations

from typing import NamedTuple

import mindspore
import numpy as np
import pytest
import torch
from mindspore import Tensor

from coupalign.config import Config, load_config
from coupalign.model import CoupAlign, Outputs, build_model
from coupalign.model.dropout import connect_dropout, draw
from tests import equations
from tests.backbones import encoder_weights, random_encoders
from tests.conftest import SMALLEST, TINY, assert_close
from tests.equations import under

TOKEN_MASK = np.array([[1] * 8, [1] * 5 + [0] * 3, [1] * 2 + [0] * 6])
SWITCHES = {
    "everything": {},
    "no alignment": {"wpa_direction": "none"},
    "alignment at stages 2 and 4": {"wpa_stages": [2, 4]},
    "one way at stages 1 and 3, no SMA": {"wpa_direction": "uni", "wpa_stages": [1, 3], "sma": False},
    "one query, cold": {"num_queries": 1, "sma_temperature": 0.1},
    "eight layers of text, windows of 7": {"bert_num_layers": 8, "swin_window_size": 7, "image_size": 96},
}
FAST = ("everything", "one way at stages 1 and 3, no SMA")
EACH = [pytest.param(keys, id=name, marks=[pytest.mark.slow] * (name not in FAST)) for name, keys in SWITCHES.items()]


class Case(NamedTuple):
    model: CoupAlign
    inputs: list[np.ndarray]
    weights: dict[str, np.ndarray]
    encoders: tuple[torch.nn.Module, torch.nn.Module]

    def tensors(self, rows=slice(None)) -> list[Tensor]:
        return [Tensor(x[rows].astype(np.float32 if x.dtype.kind == "f" else np.int32)) for x in self.inputs]


@pytest.fixture
def make(random_cell):
    """``make(config)``: a model in evaluation mode with random weights, the same weights in the references, inputs."""

    def case(config: Config) -> Case:
        encoders = random_encoders(config.model)
        shape = (3, 3, config.model.image_size, config.model.image_size)
        cell, weights, image = random_cell(build_model(config), inputs=shape)
        parameters = cell.cell.parameters_dict()
        for name, value in encoder_weights(*encoders).items():
            parameters[name].set_data(Tensor(value.astype(np.float32)))
        token_ids = np.random.default_rng(1).integers(0, config.model.bert_vocab_size, TOKEN_MASK.shape)
        return Case(cell.cell, [image, token_ids, TOKEN_MASK], weights, encoders)

    return case


def reference(config: Config, case: Case):
    """Eq 1 to 12 in float64: logits, Y_1, Y_N, Q_w, and the alignments of the stages with WPA."""
    (image, token_ids, token_mask), w, (swin, bert) = case.inputs, case.weights, case.encoders
    keys, hidden_words = config.model, torch.from_numpy(np.where(token_mask, 0, -np.inf))[:, None, None]
    side, per_stage = keys.image_size // 4, keys.bert_num_layers // 4
    pixels = swin.embeddings(torch.from_numpy(image))[0].numpy()
    words = bert.embeddings(torch.from_numpy(token_ids)).numpy()
    stages, alignments = [], []
    for i in (1, 2, 3, 4):
        size = side // 2 ** (i - 1)
        stages.append(as_map(pixels, size))
        if keys.wpa_direction != "none" and i in keys.wpa_stages:
            wpa = under(w, f"wpa.{i - 1}")
            pixels, words, *alignment = equations.word_pixel_alignment(pixels, words, token_mask, wpa)
            alignments.append(alignment)
        pixels = swin.encoder.layers[i - 1](torch.from_numpy(pixels), (size, size))[0].numpy()
        words = torch.from_numpy(words)
        for layer in bert.encoder.layer[(i - 1) * per_stage : i * per_stage]:
            words = layer(words, hidden_words)[0]
        words = words.numpy()
    v_o, l_o, l_g = swin.layernorm(torch.from_numpy(pixels)).numpy(), words, words[:, 0]
    s_o = equations.cross_attention(v_o, l_o, token_mask, keys.cross_attention_heads, under(w, "cross_attention"))
    y_1 = equations.seg_head(as_map(s_o, side // 8), stages, under(w, "seg_head"))
    if keys.sma:
        q_o = equations.mask_generator(s_o, keys.decoder_layers, keys.decoder_heads, under(w, "mask_generator"))
        mask, q_w, y_n = equations.sentence_mask_alignment(q_o, y_1, l_g, keys.sma_temperature, under(w, "sma"))
    else:
        y_n = equations.convolution(y_1, w, "mask_proj")
        mask, q_w = y_n[:, 0], np.ones((len(image), 1))
    return equations.upsample(mask[:, None], 4)[:, 0], y_1, y_n, q_w, alignments


def as_map(tokens: np.ndarray, size: int) -> np.ndarray:
    return tokens.swapaxes(1, 2).reshape(len(tokens), -1, size, size)


@pytest.mark.parametrize("switches", EACH)
@torch.no_grad()
def test_the_model_is_eq_1_to_12(make, switches):
    config = load_config(overrides={**SMALLEST, **switches})
    case = make(config)
    *expected, expected_alignments = reference(config, case)
    *found, alignments, _ = Outputs.from_tuple(case.model.all_outputs(*case.tensors()))
    for each, value in zip(found, expected, strict=True):
        assert each.dtype == mindspore.float32
        assert_close(each, value, relative=1e-5)
    for alignment, references in zip(alignments, expected_alignments, strict=True):
        for number, (each, value) in enumerate(zip(alignment, references, strict=True)):
            if config.model.wpa_direction == "uni" and number in (1, 3):
                assert each is None
            else:
                assert_close(each, value, relative=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "switches", [{}, {"wpa_direction": "uni", "wpa_stages": [2], "sma": False}], ids=["everything", "without"]
)
def test_methods_and_modes_agree(make, switches):
    """All methods return the same values, compiled or not."""
    case = make(load_config(overrides={**SMALLEST, **switches}))
    logits, pixels, *_ = case.model.all_outputs(*case.tensors())
    for each, same in zip(case.model.training_outputs(*case.tensors()), (logits, pixels), strict=True):
        assert np.array_equal(each.asnumpy(), same.asnumpy())
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    assert_close(case.model(*case.tensors()), logits, relative=5e-6)


@pytest.mark.slow
def test_neither_padding_nor_the_rest_of_the_batch_nor_dropout_matters(make):
    """Logits depend neither on the batch nor on the ids of padding. In training, dropout changes them."""
    case = make(load_config(overrides=TINY))
    image, token_ids, token_mask = case.inputs
    logits = case.model(*case.tensors()).asnumpy()
    padded_otherwise = np.where(token_mask, token_ids, (token_ids + 7) % 30522)
    assert (padded_otherwise != token_ids).sum() == 9
    case = case._replace(inputs=[x[[2, 1, 1]] for x in (image, padded_otherwise, token_mask)])
    assert_close(case.model(*case.tensors()), logits[[2, 1, 1]], relative=5e-6)
    draws = connect_dropout(case.model, 2)
    draws.set_data(draw(0, 0, draws))
    first, second = case.model.set_train(True)(*case.tensors(slice(1, 3))).asnumpy()
    assert np.abs(first - second).max() > 1e-2 * np.abs(logits).max()


@pytest.mark.parametrize("sma", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_narrow_model_starts_at_logits_near_0(sma):
    """With the last layer initialised as the others, first logits would be near 10."""
    mindspore.set_seed(1)
    model = build_model(load_config(overrides={**SMALLEST, "linear_init_std": 0.0, "sma": sma})).set_train(False)
    random = np.random.default_rng(0)
    words = random.integers(5, 200, (2, 8)).astype(np.int32)
    image = random.standard_normal((2, 3, 64, 64)).astype(np.float32)
    assert 0 < np.abs(model(Tensor(image), Tensor(words), Tensor(np.ones_like(words))).asnumpy()).max() < 1.5
