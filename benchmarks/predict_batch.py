"""Throughput of ``Predictor.predict_batch`` beside single calls of ``predict``, in turns.

    python -m benchmarks.predict_batch
    python -m benchmarks.predict_batch --one_image

The pairs are four shipped scenes, RefShapes (synthetic), with sixteen expressions each. Both ways return the same
masks at the images' own size. --one_image predicts 1, 2, 4 and 8 expressions of one image, each number as one batch.
Compilation is left out.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np

from coupalign import Predictor
from coupalign.files import REPOSITORY

COUNTS = (1, 2, 4, 8)
SIZES, COLOURS, SHAPES = ("small", "big"), ("red", "blue", "green", "yellow"), ("circle", "square")


def timed(call: Callable[[], list]) -> tuple[float, list]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def one_image(predictor: Predictor, image: Path, texts: list[str], rounds: int) -> None:
    """Prints the processor time per expression relative to a single expression, for each number of expressions."""
    rows = []
    for number in range(rounds + 1):
        row = []
        for count in COUNTS:
            start = time.process_time()
            predictor.predict_batch([image], [texts[:count]], count)
            row.append((time.process_time() - start) / count)
        rows += [row] if number else []  # the first round compiles
    for count, each in zip(COUNTS, zip(*rows)):
        ratios = [some / row[0] for some, row in zip(each, rows)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        print(f"{count} expressions: {1000 * statistics.median(each):.1f} ms of processor time each, {spread}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="assets/refshapes/model.safetensors")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--one_image", action="store_true")
    args = parser.parse_args()
    images = sorted((REPOSITORY / "assets/examples").glob("*.png"))
    texts = [f"{size} {colour} {shape}" for size in SIZES for colour in COLOURS for shape in SHAPES]
    predictor = Predictor(args.checkpoint)
    if args.one_image:
        one_image(predictor, images[0], texts, args.rounds)
        return

    def single() -> list:
        return [predictor.predict(image, text) for image in images for text in texts]

    def batched() -> list:
        found = predictor.predict_batch(images, [texts] * len(images), args.batch_size)
        return list(chain.from_iterable(found))

    expected, found = single(), batched()
    difference = max(np.abs(one.probability - other.probability).max() for one, other in zip(expected, found))
    pixels = sum(int((one.mask != other.mask).sum()) for one, other in zip(expected, found))
    print(f"{len(found)} pairs: probabilities within {difference:.1e}, {pixels} pixels of the masks differ")
    ratios = []
    for _ in range(args.rounds):
        (one, _), (other, _) = timed(single), timed(batched)
        ratios.append(one / other)
        print(f"single {one:.2f} s, batches of {args.batch_size} {other:.2f} s: {ratios[-1]:.2f}", flush=True)
    print(f"median {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")


if __name__ == "__main__":
    main()
