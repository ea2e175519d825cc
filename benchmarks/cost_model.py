"""What CoupAlign costs, by module, from the configuration alone, and what that makes of a step on Ascend 910B and A100.

    python -m benchmarks.cost_model --batch 2 --image_size 448 --num_queries 100

Nothing is run, unless --check compiles the training graph of the configuration (without the auxiliary loss, whose loops
have no fixed number of rounds) and counts what is in it. The predictions rest on published peaks and on assumed shares
of them; none of it was measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.costs import Cost, costs
from coupalign.cli import command, parse_arguments
from coupalign.config import Config

REACHED_FLOPS, REACHED_BYTES = 0.4, 0.7  # shares of the peaks that well-kept training code reaches
BYTES = 2  # of a number in forward and backward (bfloat16 or float16); gradients are summed in float32
ACTIVATION_PASSES = 5  # written and read going forward; read, gradient written and read going backward
FLOAT32 = 2  # times as long as 16 bits that a product of the auxiliary loss takes, which is float32 throughout
PAIR_PASSES = 10  # of float32 scores in the auxiliary loss: four going forward, six going backward
OPTIMIZER_BYTES = 30  # a parameter: float32 weight and two moments read and written, gradient read, weight cast


@dataclass(frozen=True)
class Device:
    """Published peaks: TFLOP/s of 16-bit products, TB/s of memory, GB/s, one way, inside a server and out of it."""

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
        "there is no public data sheet: reported are 280 to 400 TFLOP/s FP16, 1.6 TB/s, 392 GB/s both ways",
    ),
    Device(
        "A100 80 GB SXM",
        312,
        2.039,
        300,
        25,
        "data sheet: 312 TFLOP/s BF16 dense, 2,039 GB/s, NVLink 600 GB/s both ways",
    ),
)


def step(modules: dict[str, Cost], device: Device, count: int) -> dict[str, float]:
    """Seconds of a training step on `count` devices, the batch being each one's own.

    Returns: products, memory and all_reduce, each alone; total, with the gradients travelling during the backward pass.
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
    """What a device sends to others of its server, and out of it, for the mean of float32 gradients.

    A ring inside the server; then each device exchanges its eighth with its peers in the other servers.
    """
    near, servers = min(count, 8), max(count // 8, 1)
    size = 4 * parameters
    return 2 * (near - 1) / near * size, 2 * (servers - 1) / servers * size / 8


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=int, default=2, metavar="INT", help="images on a device (default: 2)")
    parser.add_argument("--check", action="store_true", help="compare with what the compiled graph holds")


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, args = parse_arguments(__doc__, argv, _add)
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
    """Prints what was worked out beside what was counted; exit code 1 where they differ by more than 5 %."""
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
    # Which module an activation belongs to cannot everywhere be told from the dump.
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
