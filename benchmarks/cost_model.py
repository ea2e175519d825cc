"""What CoupAlign costs, by module, from the configuration alone, and what that makes of a step on Ascend 910B and A100.

    python -m benchmarks.cost_model --batch 2 --image_size 448 --num_queries 100

Nothing is run. FLOPs are those of products and convolutions, two a multiply-add; activations are the outputs of products,
convolutions, norms, softmax and activation functions, which is what a backward pass keeps. A test holds parameters and FLOPs
to counters. The predictions rest on the figures and shares in `DEVICES` and below, none of which was measured here.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from src.cli import command, parse_arguments
from src.config import Config

POSITIVE = 0.15  # share of pixels on the referent; the auxiliary loss costs in proportion to the smaller side
REACHED_FLOPS, REACHED_BYTES = 0.4, 0.7  # shares of the peaks that well-kept training code reaches
BYTES = 2  # of a number in forward and backward (bfloat16 or float16); gradients are summed in float32
ACTIVATION_PASSES = 5  # written and read going forward; read, gradient written and read going backward
OPTIMIZER_BYTES = 30  # a parameter: float32 weight and two moments read and written, gradient read, weight cast


@dataclass(frozen=True)
class Device:
    """Published peaks: TFLOP/s of 16-bit products, TB/s of memory, GB/s to its server's other devices and to other servers."""

    name: str
    tflops: float
    memory: float
    inside: float
    outside: float
    source: str


# One direction's bandwidth of the links; servers hold 8 devices, each with a 200 Gb/s network port.
DEVICES = (
    Device("Ascend 910B", 320, 1.6, 196, 25, "no data sheet is public: 320 TFLOP/s FP16 and 64 GB as reported in the press, "
           "which gives 256 to 376; 1.6 TB/s and 392 GB/s both ways are the least certain"),
    Device("A100 80 GB SXM", 312, 2.039, 300, 25, "NVIDIA's A100 data sheet: 312 TFLOP/s BF16 dense, 2,039 GB/s, NVLink "
           "600 GB/s both ways; DGX A100: eight 200 Gb/s ports"),
)


class Cost:
    """FLOPs of a forward pass, trainable parameters, and elements of activations, added up layer by layer."""

    def __init__(self) -> None:
        self.flops = self.parameters = self.activations = 0

    def product(self, batch: int, m: int, k: int, n: int) -> None:
        """(batch, m, k) times (batch, k, n)."""
        self.flops += 2 * batch * m * k * n
        self.activations += batch * m * n

    def dense(self, rows: int, inputs: int, outputs: int, bias: bool = True) -> None:
        self.product(1, rows, inputs, outputs)
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
        self.product(maps, side, side, side * factor)
        self.product(maps, side * factor, side, side * factor)


def costs(config: Config, batch: int) -> dict[str, Cost]:
    """Of each module, named as in the checkpoint, for a batch; `mask` is what SMA's mask goes through, `auxiliary_loss` the loss."""
    modules = {"image_encoder": _image_encoder(config, batch), "text_encoder": _text_encoder(config, batch),
               "wpa": _wpa(config, batch), "cross_attention": _cross_attention(config, batch)}
    if config.sma:
        modules["mask_generator"] = _mask_generator(config, batch)
    modules["seg_head"] = _seg_head(config, batch)
    if config.sma:
        modules["sma"] = _sma(config, batch)
    else:
        modules["mask_proj"] = Cost()
        modules["mask_proj"].dense(batch * (config.image_size // 4) ** 2, config.seg_head_dim, 1)
    modules["upsample"] = Cost()
    modules["upsample"].upsample(batch, config.image_size // 4, 4)
    if config.aux_loss_weight:
        modules["auxiliary_loss"] = Cost()
        pixels = (config.image_size // 4) ** 2
        modules["auxiliary_loss"].flops = int(2 * batch * config.seg_head_dim * POSITIVE * pixels * pixels)
        modules["auxiliary_loss"].activations = 2 * batch * config.seg_head_dim * pixels
    return modules


def _stages(config: Config) -> list[tuple[int, int]]:
    """Width and side of V_1 … V_4."""
    return [(config.swin_embed_dim * 2 ** i, config.image_size // 4 // 2 ** i) for i in range(4)]


def _image_encoder(config: Config, batch: int) -> Cost:
    cost = Cost()
    cost.dense(batch * (config.image_size // 4) ** 2, 48, config.swin_embed_dim)
    cost.norm(batch * (config.image_size // 4) ** 2, config.swin_embed_dim)
    for i, (dim, side) in enumerate(_stages(config)):
        window, heads = min(side, config.swin_window_size), config.swin_num_heads[i]
        windows = batch * (-(-side // window)) ** 2
        rows = windows * window ** 2
        for _ in range(config.swin_depths[i]):
            cost.norm(rows, dim)
            cost.dense(rows, dim, 3 * dim)
            cost.attention(windows, window ** 2, window ** 2, dim, heads)
            cost.parameters += (2 * window - 1) ** 2 * heads
            cost.dense(rows, dim, dim)
            cost.norm(rows, dim)
            cost.mlp(rows, dim, 4 * dim)
        if i < 3:
            cost.norm(batch * side ** 2 // 4, 4 * dim)
            cost.dense(batch * side ** 2 // 4, 4 * dim, 2 * dim, bias=False)
    cost.norm(batch * _stages(config)[3][1] ** 2, _stages(config)[3][0])
    return cost


def _text_encoder(config: Config, batch: int) -> Cost:
    cost, dim, rows = Cost(), config.bert_hidden_size, batch * config.max_tokens
    cost.parameters += (config.bert_vocab_size + config.bert_max_positions + 2) * dim
    cost.norm(rows, dim)
    for _ in range(config.bert_num_layers):
        for _ in range(4):
            cost.dense(rows, dim, dim)
        cost.attention(batch, config.max_tokens, config.max_tokens, dim, config.bert_num_heads)
        cost.norm(rows, dim)
        cost.mlp(rows, dim, 4 * dim)
        cost.norm(rows, dim)
    return cost


def _wpa(config: Config, batch: int) -> Cost:
    cost, words, text_dim, joint = Cost(), batch * config.max_tokens, config.bert_hidden_size, config.wpa_dim
    for stage, (dim, side) in enumerate(_stages(config), 1):
        if config.wpa_direction == "none" or stage not in config.wpa_stages:
            continue
        pixels = batch * side ** 2
        cost.dense(pixels, dim, joint)
        cost.dense(words, text_dim, joint)
        cost.attention(batch, side ** 2, config.max_tokens, joint, 1)
        cost.dense(pixels, joint, dim)
        _gate(cost, pixels, dim)
        if config.wpa_direction == "bi":
            cost.function(pixels * config.max_tokens)
            cost.product(batch, config.max_tokens, side ** 2, joint)
            cost.dense(words, joint, text_dim)
            _gate(cost, words, text_dim)
    return cost


def _gate(cost: Cost, rows: int, dim: int) -> None:
    cost.mlp(rows, dim, dim)
    cost.function(rows * dim)


def _cross_attention(config: Config, batch: int) -> Cost:
    cost, dim, words = Cost(), config.bert_hidden_size, config.max_tokens
    image_dim, side = _stages(config)[3]
    pixels = side ** 2
    cost.dense(batch * pixels, image_dim, dim)
    cost.dense(batch * words, dim, dim)
    cost.parameters += pixels * dim
    cost.dense(batch * pixels, dim, dim)
    for _ in range(2):
        cost.dense(batch * (pixels + words), dim, dim)
    cost.attention(batch, pixels, pixels + words, dim, config.cross_attention_heads)
    cost.dense(batch * pixels, dim, image_dim)
    return cost


def _mask_generator(config: Config, batch: int) -> Cost:
    cost, dim, queries = Cost(), config.decoder_dim, config.num_queries
    image_dim, side = _stages(config)[3]
    cost.parameters += queries * dim
    cost.dense(batch * side ** 2, image_dim, dim)
    for _ in range(config.decoder_layers):
        for asked in (queries, side ** 2):
            for rows in (queries, asked, asked, queries):
                cost.dense(batch * rows, dim, dim)
            cost.attention(batch, queries, asked, dim, config.decoder_heads)
            cost.norm(batch * queries, dim)
        cost.mlp(batch * queries, dim, config.decoder_ffn_dim)
        cost.norm(batch * queries, dim)
    return cost


def _seg_head(config: Config, batch: int) -> Cost:
    cost, dim = Cost(), config.seg_head_dim
    stages = _stages(config)
    for i, (width, side) in enumerate(stages):
        at = stages[min(i + 1, 3)][1]  # rho_i works on Y_{i+1}, which has the size of V_{i+1}
        for inputs in (stages[3][0] if i == 3 else dim, dim):
            cost.dense(batch * at ** 2, 9 * inputs, dim)
            cost.function(batch * at ** 2 * dim)
            cost.norm(batch * at ** 2, dim)
        if i < 3:
            cost.upsample(batch * dim, at, 2)
        cost.dense(batch * side ** 2, width, dim)
    return cost


def _sma(config: Config, batch: int) -> Cost:
    cost, dim, queries, pixel_dim = Cost(), config.bert_hidden_size, config.num_queries, config.seg_head_dim
    cost.dense(batch * queries, config.decoder_dim, dim)
    cost.product(batch, queries, dim, 1)
    cost.function(batch * queries)
    cost.product(batch, 1, queries, dim)
    cost.dense(batch, dim, pixel_dim, bias=False)
    cost.dense(batch, dim, 1, bias=False)
    cost.product(batch, 1, pixel_dim, (config.image_size // 4) ** 2)
    return cost


def backward(name: str) -> int:
    """FLOPs of the backward pass of a module in those of its forward pass; the auxiliary loss makes its products anew."""
    return 3 if name == "auxiliary_loss" else 2


def step(modules: dict[str, Cost], device: Device, count: int) -> dict[str, float]:
    """Seconds of a training step on `count` devices, the batch being each one's own: products, memory, all_reduce, total."""
    parameters = sum(cost.parameters for cost in modules.values())
    products = {name: (1 + backward(name)) * cost.flops / (device.tflops * 1e12 * REACHED_FLOPS)
                for name, cost in modules.items()}
    memory = {name: BYTES * (ACTIVATION_PASSES * cost.activations + 3 * cost.parameters) / _bandwidth(device)
              for name, cost in modules.items()}
    compute = sum(max(products[name], memory[name]) for name in modules)
    update = OPTIMIZER_BYTES * parameters / _bandwidth(device)
    near, servers = min(count, 8), max(count // 8, 1)
    # A ring inside the server; then each device exchanges its eighth with its peers in the other servers.
    all_reduce = (2 * (near - 1) / near * 4 * parameters / (device.inside * 1e9 * REACHED_BYTES)
                  + 2 * (servers - 1) / servers * 4 * parameters / 8 / (device.outside * 1e9 * REACHED_BYTES))
    hidden = compute * 2 / 3  # gradients travel while the backward pass goes on
    return {"products": sum(products.values()), "memory": sum(memory.values()) + update, "all_reduce": all_reduce,
            "total": compute + update + max(0.0, all_reduce - hidden)}


def _bandwidth(device: Device) -> float:
    return device.memory * 1e12 * REACHED_BYTES


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=int, default=2, metavar="INT", help="images on a device (default: 2)")


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, args = parse_arguments(__doc__, argv, _add)
    modules = costs(config, args.batch)
    print(f"{config.image_size} pixels, {args.batch} images, N = {config.num_queries}")
    print(f"{'':16}{'GFLOP':>9}{'trained':>9}{'M param.':>10}{'M activ.':>10}{'MB':>8}")
    rows = [(name, cost.flops, (1 + backward(name)) * cost.flops, cost.parameters, cost.activations)
            for name, cost in modules.items()]
    for name, *values in [*rows, ("total", *(sum(row[i] for row in rows) for i in range(1, 5)))]:
        flops, trained, parameters, activations = values
        print(f"{name:16}{flops / 1e9:9.1f}{trained / 1e9:9.1f}{parameters / 1e6:10.2f}{activations / 1e6:10.1f}"
              f"{BYTES * (parameters + activations) / 1e6:8.0f}")
    print("\ntrained: forward and backward; MB: parameters and activations in 16 bits")
    print(f"Predicted, at {REACHED_FLOPS:.0%} of the peak FLOP/s and {REACHED_BYTES:.0%} of the peak bandwidths:")
    print(f"{'':22}{'step ms':>9}{'products':>10}{'memory':>8}{'all-reduce':>12}{'images/s':>10}  bound by")
    for device in DEVICES:
        for count in (1, 8, 64, 256):
            times = step(modules, device, count)
            bound = max(("products", "memory", "all_reduce"), key=times.get).replace("_", "-")
            print(f"{count:4d} x {device.name:15}{times['total'] * 1e3:9.1f}{times['products'] * 1e3:10.1f}"
                  f"{times['memory'] * 1e3:8.1f}{times['all_reduce'] * 1e3:12.1f}"
                  f"{count * args.batch / times['total']:10.0f}  {bound}")
        print(f"     {device.source}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
