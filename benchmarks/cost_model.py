"""Computes the cost of CoupAlign by module: FLOPs, parameters and activations.

    python -m benchmarks.cost_model --batch 2 --image_size 448 --num_queries 100

The costs follow from the configuration alone; nothing is run. Losses are left out. --check compiles the training graph of
the configuration and counts its operators; it takes a small model.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.costs import Cost, costs
from coupalign.cli import command, option, parse_arguments
from coupalign.config import Config

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
    print(f"{'':16}{'GFLOP':>10}{'backward':>10}{'M param.':>10}")
    rows = {name: (cost.forward, cost.backward, cost.parameters) for name, cost in modules.items()}
    rows["total"] = tuple(map(sum, zip(*rows.values())))
    for name, (forward, backward, parameters) in rows.items():
        print(f"{name:16}{forward / 1e9:10.1f}{backward / 1e9:10.1f}{parameters / 1e6:10.2f}")
    # Only the sum is printed, because --check cannot tell the module of every activation.
    print(f"activations: {sum(cost.activations for cost in modules.values()) / 1e6:.1f} million")
    return 0


def _check(config: Config, modules: dict[str, Cost], batch: int) -> int:
    """Compares predicted with counted numbers. Returns 1 if any differ by more than 5 %."""
    from benchmarks.graph_count import count

    counted, right = count(config, batch), True
    print(f"{'':16}{'parameters':>33}{'FLOPs forward':>33}{'backward':>33}")
    for name in modules:
        pairs = [
            (getattr(modules[name], quantity), getattr(counted[name], quantity))
            for quantity in ("parameters", "forward", "backward")
        ]
        print(f"{name:16}" + "".join(map(_beside, pairs)), flush=True)
        right = right and all(map(_near, pairs))
    total = tuple(sum(each.activations for each in table.values()) for table in (modules, counted))
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
