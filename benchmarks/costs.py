"""FLOPs, parameters and activations of CoupAlign by module, computed from the configuration."""

from __future__ import annotations

from coupalign.config import Config


class Cost:
    """Sum of the costs of layers.

    Attributes:
        forward: FLOPs of products and convolutions in the forward pass, two per multiply-add.
        backward: The same in the backward pass.
        parameters: Trainable parameters.
        activations: Output elements of products, convolutions, norms, softmax and activation functions, which is
            about what the backward pass needs.
    """

    def __init__(self) -> None:
        self.forward = self.backward = self.parameters = self.activations = 0

    def product(self, batch: int, m: int, k: int, n: int, gradients: int = 2) -> None:
        """(batch, m, k) times (batch, k, n), with gradients of one factor or of both."""
        self.forward += 2 * batch * m * k * n
        self.backward += gradients * 2 * batch * m * k * n
        self.activations += batch * m * n

    def dense(self, rows: int, inputs: int, outputs: int, bias: bool = True, gradients: int = 2) -> None:
        self.product(1, rows, inputs, outputs, gradients)
        self.parameters += inputs * outputs + outputs * bias

    def norm(self, rows: int, dim: int) -> None:
        self.parameters += 2 * dim
        self.activations += rows * dim

    def function(self, elements: int) -> None:
        """Softmax, GELU, ReLU or tanh."""
        self.activations += elements

    def attention(self, batch: int, queries: int, keys: int, dim: int, heads: int) -> None:
        """Scores, softmax and weighted sum, without projections."""
        self.product(batch * heads, queries, dim // heads, keys)
        self.function(batch * heads * queries * keys)
        self.product(batch * heads, queries, keys, dim // heads)

    def mlp(self, rows: int, dim: int, hidden: int) -> None:
        self.dense(rows, dim, hidden)
        self.function(rows * hidden)
        self.dense(rows, hidden, dim)

    def upsample(self, maps: int, side: int, factor: int) -> None:
        """Two products with constant matrices."""
        self.product(maps, side, side, side * factor, gradients=1)
        self.product(maps, side * factor, side, side * factor, gradients=1)


def costs(config: Config, batch: int) -> dict[str, Cost]:
    """Costs of each module, named as in checkpoints, and of mask upsampling, for one batch; losses are left out."""
    modules = {
        "image_encoder": _image_encoder(config, batch),
        "text_encoder": _text_encoder(config, batch),
        "wpa": _wpa(config, batch),
        "cross_attention": _cross_attention(config, batch),
    }
    if config.model.sma:
        modules["mask_generator"] = _mask_generator(config, batch)
    modules["seg_head"] = _seg_head(config, batch)
    if config.model.sma:
        modules["sma"] = _sma(config, batch)
    else:
        modules["mask_proj"] = Cost()
        modules["mask_proj"].dense(batch * (config.model.image_size // 4) ** 2, config.model.seg_head_dim, 1)
    modules["upsample"] = Cost()
    modules["upsample"].upsample(batch, config.model.image_size // 4, 4)
    return modules


def _stages(config: Config) -> list[tuple[int, int]]:
    """Width and side of V_1 … V_4."""
    return [(config.model.swin_embed_dim * 2**i, config.model.image_size // 4 // 2**i) for i in range(4)]


def _image_encoder(config: Config, batch: int) -> Cost:
    cost = Cost()
    cost.dense(batch * (config.model.image_size // 4) ** 2, 48, config.model.swin_embed_dim, gradients=1)
    cost.norm(batch * (config.model.image_size // 4) ** 2, config.model.swin_embed_dim)
    for i, (dim, side) in enumerate(_stages(config)):
        window, heads = min(side, config.model.swin_window_size), config.model.swin_num_heads[i]
        windows = batch * (-(-side // window)) ** 2
        rows = windows * window**2
        for _ in range(config.model.swin_depths[i]):
            cost.norm(rows, dim)
            cost.dense(rows, dim, 3 * dim)
            cost.attention(windows, window**2, window**2, dim, heads)
            cost.parameters += (2 * window - 1) ** 2 * heads
            cost.dense(rows, dim, dim)
            cost.norm(rows, dim)
            cost.mlp(rows, dim, 4 * dim)
        if i < 3:
            cost.norm(batch * side**2 // 4, 4 * dim)
            cost.dense(batch * side**2 // 4, 4 * dim, 2 * dim, bias=False)
    cost.norm(batch * _stages(config)[3][1] ** 2, _stages(config)[3][0])
    return cost


def _text_encoder(config: Config, batch: int) -> Cost:
    cost, dim, rows = Cost(), config.model.bert_hidden_size, batch * config.model.max_tokens
    cost.parameters += (config.model.bert_vocab_size + config.model.bert_max_positions + 2) * dim
    cost.norm(rows, dim)
    for _ in range(config.model.bert_num_layers):
        for _ in range(4):
            cost.dense(rows, dim, dim)
        cost.attention(batch, config.model.max_tokens, config.model.max_tokens, dim, config.model.bert_num_heads)
        cost.norm(rows, dim)
        cost.mlp(rows, dim, 4 * dim)
        cost.norm(rows, dim)
    return cost


def _wpa(config: Config, batch: int) -> Cost:
    cost, words, text_dim, joint = (
        Cost(),
        batch * config.model.max_tokens,
        config.model.bert_hidden_size,
        config.model.wpa_dim,
    )
    for stage, (dim, side) in enumerate(_stages(config), 1):
        if config.model.wpa_direction == "none" or stage not in config.model.wpa_stages:
            continue
        pixels = batch * side**2
        # The projection of the pixels is applied to the words: before the scores, and after the sum over pixels.
        cost.parameters += (dim + 1) * joint + joint * dim + dim
        cost.dense(words, text_dim, joint)
        cost.product(1, words, joint, dim)
        cost.product(1, words, joint, 1)
        cost.product(1, words, joint, dim)
        cost.attention(batch, side**2, config.model.max_tokens, dim, 1)
        _gate(cost, pixels, dim)
        if config.model.wpa_direction == "bi":
            cost.function(pixels * config.model.max_tokens)
            cost.product(batch, config.model.max_tokens, side**2, dim)
            cost.product(1, words, dim, joint)
            cost.dense(words, joint, text_dim)
            _gate(cost, words, text_dim)
    return cost


def _gate(cost: Cost, rows: int, dim: int) -> None:
    cost.mlp(rows, dim, dim)
    cost.function(rows * dim)


def _cross_attention(config: Config, batch: int) -> Cost:
    cost, dim, words = Cost(), config.model.bert_hidden_size, config.model.max_tokens
    image_dim, side = _stages(config)[3]
    pixels = side**2
    cost.dense(batch * pixels, image_dim, dim)
    cost.dense(batch * words, dim, dim)
    cost.parameters += pixels * dim
    cost.dense(batch * pixels, dim, dim)
    for _ in range(2):
        cost.dense(batch * (pixels + words), dim, dim)
    cost.attention(batch, pixels, pixels + words, dim, config.model.cross_attention_heads)
    cost.dense(batch * pixels, dim, image_dim)
    return cost


def _mask_generator(config: Config, batch: int) -> Cost:
    cost, dim, queries = Cost(), config.model.decoder_dim, config.model.num_queries
    image_dim, side = _stages(config)[3]
    cost.parameters += queries * dim
    cost.dense(batch * side**2, image_dim, dim)
    for _ in range(config.model.decoder_layers):
        for keys in (queries, side**2):
            for rows in (queries, keys, keys, queries):
                cost.dense(batch * rows, dim, dim)
            cost.attention(batch, queries, keys, dim, config.model.decoder_heads)
            cost.norm(batch * queries, dim)
        cost.mlp(batch * queries, dim, config.model.decoder_ffn_dim)
        cost.norm(batch * queries, dim)
    return cost


def _seg_head(config: Config, batch: int) -> Cost:
    cost, dim = Cost(), config.model.seg_head_dim
    stages = _stages(config)
    for i, (width, side) in enumerate(stages):
        at = stages[min(i + 1, 3)][1]  # rho_i works on Y_{i+1}, which has the size of V_{i+1}
        for inputs in (stages[3][0] if i == 3 else dim, dim):
            cost.dense(batch * at**2, 9 * inputs, dim)
            cost.function(batch * at**2 * dim)
            cost.norm(batch * at**2, dim)
        if i < 3:
            cost.upsample(batch * dim, at, 2)
        cost.dense(batch * side**2, width, dim)
    return cost


def _sma(config: Config, batch: int) -> Cost:
    cost, dim, queries, pixel_dim = (
        Cost(),
        config.model.bert_hidden_size,
        config.model.num_queries,
        config.model.seg_head_dim,
    )
    cost.dense(batch * queries, config.model.decoder_dim, dim)
    cost.product(batch, queries, dim, 1)
    cost.function(batch * queries)
    cost.product(batch, 1, queries, dim)
    cost.dense(batch, dim, pixel_dim, bias=False)
    cost.dense(batch, dim, 1, bias=False)
    cost.product(batch, 1, pixel_dim, (config.model.image_size // 4) ** 2)
    return cost
