"""Predicts the cost of CoupAlign by module, and the time of a training step on Ascend 910B and A100.

    python -m benchmarks.cost_model --batch 2 --image_size 448 --num_queries 100

The costs follow from the configuration alone; nothing is run. --check compiles the training graph of the configuration
and counts its operators, without the auxiliary loss, whose loops have no fixed number of iterations. The times rest on
published peaks and on assumed fractions of them; none of them was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.costs import Cost, costs
from coupalign.cli import command, option, parse_arguments
from coupalign.config import Config

REACHED_FLOPS, REACHED_BYTES = 0.4, 0.7  # assumed fractions of the peaks
BYTES = 2  # per value in forward and backward passes (bfloat16 or float16); gradients are summed in float32
ACTIVATION_PASSES = 5  # forward: write, read; backward: read, write and read the gradient
FLOAT32 = 2  # products of the auxiliary loss are float32 and take twice as long as 16-bit ones
PAIR_PASSES = 10  # passes over the float32 scores of the auxiliary loss: four forward, six backward
OPTIMIZER_BYTES = 30  # per parameter: read and write float32 weight and two moments, read the gradient, cast the weight


@dataclass(frozen=True)
class Device:
    """Published peaks: 16-bit TFLOP/s; memory TB/s; GB/s in one direction within a server and between servers."""

    name: str
    tflops: float
    memory: float
    inside: float
    outside: float
    source: str


# Servers hold 8 devices, each with a 200 Gb/s network port.
DEVICES = (
    Device(
        "Ascend 910B",
        320,
        1.6,
        196,
        25,
        "no public data sheet; reported: 280 to 400 TFLOP/s FP16, 1.6 TB/s, 392 GB/s in both directions",
    ),
    Device(
        "A100 80 GB SXM",
        312,
        2.039,
        300,
        25,
        "data sheet: 312 TFLOP/s BF16 dense, 2,039 GB/s, NVLink 600 GB/s in both directions",
    ),
)


def step(modules: dict[str, Cost], device: Device, count: int) -> dict[str, float]:
    """Seconds of a training step on `count` devices, each with its own batch.

    Returns: "products", "memory" and "all_reduce" alone; "total", with the all-reduce overlapping the backward pass.
    """
    parameters = sum(cost.parameters for cost in modules.values())
    flops, bandwidth = device.tflops * 1e12 * REACHED_FLOPS, device.memory * 1e12 * REACHED_BYTES
    products = [(cost.forward + cost.backward) * (FLOAT32 if cost.pairs else 1) / flops for cost in modules.values()]
    memory = [
        (BYTES * (ACTIVATION_PASSES * cost.activations + 3 * cost.parameters) + 4 * PAIR_PASSES * cost.pairs)
        / bandwidth
        for cost in modules.values()
    ]
    compute = sum(map(max, products, memory))
    update = OPTIMIZER_BYTES * parameters / bandwidth
    all_reduce = sum(
        volume / (speed * 1e9 * REACHED_BYTES)
        for volume, speed in zip(all_reduce_bytes(parameters, count), (device.inside, device.outside))
    )
    return {
        "products": sum(products),
        "memory": sum(memory) + update,
        "all_reduce": all_reduce,
        "total": compute + update + max(0.0, all_reduce - compute * 2 / 3),
    }


def all_reduce_bytes(parameters: int, count: int) -> tuple[float, float]:
    """Bytes that a device sends within its server and to other servers to average float32 gradients.

    A ring within the server, then an exchange of an eighth with the peers in the other servers.
    """
    near, servers = min(count, 8), max(count // 8, 1)
    size = 4 * parameters
    return 2 * (near - 1) / near * size, 2 * (servers - 1) / servers * size / 8


OPTIONS = [
    option("--batch INT", "images per device", default=2),
    option("--check", "compare with the compiled graph"),
]


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, args = parse_arguments(__doc__, argv, OPTIONS)
    modules = costs(config, args.batch)
    if args.check:
        return _check(config, modules, args.batch)
    print(f"{config.model.image_size} pixels, {args.batch} images, N = {config.model.num_queries}")
    print(f"{'':16}{'GFLOP':>10}{'backward':>10}{'M param.':>10}{'M activ.':>10}{'MB':>8}")
    rows = {name: (cost.forward, cost.backward, cost.parameters, cost.activations) for name, cost in modules.items()}
    rows["total"] = tuple(map(sum, zip(*rows.values())))
    for name, (forward, backward, parameters, activations) in rows.items():
        print(
            f"{name:16}{forward / 1e9:10.1f}{backward / 1e9:10.1f}{parameters / 1e6:10.2f}{activations / 1e6:10.1f}"
            f"{BYTES * (parameters + activations) / 1e6:8.0f}"
        )
    print("MB: parameters and activations in 16 bits")
    print(
        f"\nPredicted at {REACHED_FLOPS:.0%} of the peak FLOP/s and {REACHED_BYTES:.0%} of the peak bandwidths; each "
        "device sends MB inside and out of its server:"
    )
    print(f"{'':22}{'step ms':>9}{'products':>10}{'memory':>8}{'all-reduce':>12}{'MB':>11}{'images/s':>10}  bound by")
    for device in DEVICES:
        for count in (1, 8, 64, 256):
            times = step(modules, device, count)
            inside, outside = (each / 1e6 for each in all_reduce_bytes(rows["total"][2], count))
            bound = max(("products", "memory", "all_reduce"), key=times.get).replace("_", "-")
            print(
                f"{count:4d} x {device.name:15}{times['total'] * 1e3:9.1f}{times['products'] * 1e3:10.1f}"
                f"{times['memory'] * 1e3:8.1f}{times['all_reduce'] * 1e3:12.1f}{inside:6.0f}{outside:5.0f}"
                f"{count * args.batch / times['total']:10.0f}  {bound}"
            )
        print(f"     {device.source}")
    return 0


def _check(config: Config, modules: dict[str, Cost], batch: int) -> int:
    """Compares predicted with counted numbers. Returns 1 if any differ by more than 5 %."""
    from benchmarks.graph_count import count

    counted, right = count(config, batch), True
    print(f"{'':16}{'parameters':>33}{'FLOPs forward':>33}{'backward':>33}")
    for name in [name for name in modules if name != "auxiliary_loss"]:
        pairs = [
            (getattr(modules[name], quantity), getattr(counted[name], quantity))
            for quantity in ("parameters", "forward", "backward")
        ]
        print(f"{name:16}" + "".join(map(_beside, pairs)), flush=True)
        right = right and all(map(_near, pairs))
    # The dump does not always tell which module an activation belongs to.
    total = tuple(
        sum(each.activations for name, each in table.items() if name != "auxiliary_loss")
        for table in (modules, counted)
    )
    print(f"activations, all{_beside(total)}")
    right = right and _near(total)
    print("all within 5 %" if right else "NOT all within 5 %")
    return 0 if right else 1


def _beside(pair: tuple[float, float]) -> str:
    ours, theirs = pair
    return f"{ours:16.4g}{theirs:11.4g}" + (f"{ours / theirs - 1:+6.1%}" if theirs else "      ")


def _near(pair: tuple[float, float]) -> bool:
    ours, theirs = pair
    return abs(ours - theirs) <= 0.05 * theirs


if __name__ == "__main__":
    raise SystemExit(main())
