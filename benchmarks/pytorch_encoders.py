"""The two encoders alone in PyTorch, from Hugging Face: a lower bound of the work of any such model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from coupalign.config import Config


def make_encoders(config: Config) -> tuple:
    """SwinModel and BertModel with a configuration's sizes and random weights. Needs PyTorch and transformers."""
    from transformers.utils import import_utils

    import_utils._torchvision_available = (
        False  # not needed; a version that does not fit torch would fail in the next line
    )
    from transformers import BertConfig, BertModel, SwinConfig, SwinModel

    swin_config = SwinConfig(
        image_size=config.model.image_size,
        embed_dim=config.model.swin_embed_dim,
        depths=config.model.swin_depths,
        num_heads=config.model.swin_num_heads,
        window_size=config.model.swin_window_size,
        drop_path_rate=config.model.swin_drop_path_rate,
    )
    bert_config = BertConfig(
        vocab_size=config.model.bert_vocab_size,
        hidden_size=config.model.bert_hidden_size,
        intermediate_size=4 * config.model.bert_hidden_size,
        num_hidden_layers=config.model.bert_num_layers,
        num_attention_heads=config.model.bert_num_heads,
        max_position_embeddings=config.model.bert_max_positions,
        hidden_dropout_prob=config.model.bert_dropout,
        attention_probs_dropout_prob=config.model.bert_dropout,
    )
    return SwinModel(swin_config, add_pooling_layer=False), BertModel(bert_config, add_pooling_layer=False)


def inference(config: Config, image: np.ndarray, ids: np.ndarray, mask: np.ndarray) -> Callable[[], None]:
    """A function that runs both encoders once, eager float32. Args: image (B, 3, S, S), ids and mask (B, T)."""
    import torch

    swin, bert = (each.eval() for each in make_encoders(config))
    pixels, words, real = torch.tensor(image), torch.tensor(ids, dtype=torch.long), torch.tensor(mask)

    def run() -> None:
        with torch.inference_mode():
            swin(pixels)
            bert(words, attention_mask=real)

    return run


def training(config: Config, image: np.ndarray, ids: np.ndarray, mask: np.ndarray) -> Callable[[], None]:
    """A function that makes one AdamW step of both encoders, with a 1x1 convolution on the last feature map."""
    import torch

    swin, bert = (each.train() for each in make_encoders(config))
    side = config.model.image_size // 32
    top = torch.nn.Conv2d(8 * config.model.swin_embed_dim, 1, 1)
    optimizer = torch.optim.AdamW([p for each in (swin, bert, top) for p in each.parameters()], lr=1e-5)
    pixels, words, real = torch.tensor(image), torch.tensor(ids, dtype=torch.long), torch.tensor(mask)
    target = torch.zeros(len(image), 1, side, side)

    def run() -> None:
        optimizer.zero_grad()
        out = swin(pixels).last_hidden_state.transpose(1, 2).unflatten(2, (side, side))
        sentence = bert(words, attention_mask=real).last_hidden_state[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(top(out), target) + sentence.square().mean()
        loss.backward()
        optimizer.step()

    return run
