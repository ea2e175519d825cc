"""The text encoder against that of Hugging Face in float64, with random weights."""

from __future__ import annotations

import numpy as np
import torch
from mindspore import Tensor

from coupalign.model.bert import BertModel
from coupalign.model.layers import padding_bias
from tests.backbones import bert_weights, random_bert, set_weights
from tests.conftest import assert_close

SIZES = {"vocab_size": 50, "dim": 24, "heads": 3, "layers": 8, "max_positions": 12}
TOKEN_MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]], np.int32)


def test_embeddings_stages_and_encoder_equal_hugging_face():
    """A stage is a quarter of the layers."""
    theirs = random_bert(**SIZES)
    ours = BertModel(**SIZES, dropout=0.1).set_train(False)
    set_weights(ours, bert_weights(theirs))
    token_ids = np.random.default_rng(1).integers(0, 50, TOKEN_MASK.shape).astype(np.int32)
    with torch.no_grad():
        expected = theirs(
            torch.from_numpy(token_ids).long(), torch.from_numpy(TOKEN_MASK), output_hidden_states=True
        ).hidden_states
    x, bias = ours.embeddings(Tensor(token_ids)), padding_bias(Tensor(TOKEN_MASK))
    assert_close(x, expected[0], relative=1e-5)
    for i in range(4):
        x = ours.stage(x, bias, i)
        assert_close(x, expected[2 * i + 2], relative=1e-5)
    assert_close(ours(Tensor(token_ids), bias), expected[-1], relative=1e-5)
