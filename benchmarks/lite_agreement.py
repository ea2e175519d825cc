"""Compares MindSpore 2.9, MindSpore 2.0 and MindSpore Lite, in Python and in C++, on the same samples.

    python -m benchmarks.lite_agreement --checkpoint runs/quickstart/best.ckpt --samples 50

Exports the checkpoint with MindSpore 2.0, runs random inputs and samples of a split in all four, and prints the largest
difference of a probability and the oIoU of each. With --images, the C++ program also decodes that many images, and its
masks are compared with those of deploy/lite_predict.py. It needs scripts/set_up_lite.sh and ascend310_infer/build.sh.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.lite_latency import GraphWorker
from coupalign.cli import command, option, parse_arguments
from coupalign.config import Config, load_config
from coupalign.data.dataset import Split
from coupalign.errors import UserError
from coupalign.evaluation.evaluate import evaluated_rows
from coupalign.files import REPOSITORY, find_file, make_directory
from coupalign.inference.deployment import INPUTS, score, write_inputs

TOLERANCE = 1e-3
RANDOM = 4


OPTIONS = [
    option("--checkpoint FILE", "model (.ckpt or .safetensors), with its config.yaml beside it", required=True),
    option("--mindir FILE", "exported graph of the checkpoint (default: export it)"),
    option("--split NAME", "split to evaluate", default="val"),
    option("--samples INT", "samples of the split", default=50),
    option("--images INT", "images that the C++ program decodes; it loads the model for each", default=0),
    option("--output DIR", "directory of the files", default="runs/lite_agreement"),
    option("--lite DIR", "directory of scripts/set_up_lite.sh", default=".lite"),
    option("--program FILE", "the C++ program", default="ascend310_infer/build/coupalign"),
]


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, args = parse_arguments(__doc__, argv, OPTIONS)
    config = load_config(overrides={**config.as_dict(), "eval_limit": args.samples})
    work = make_directory(args.output).resolve()
    older = find_file(f"{args.lite}/export/bin/python").absolute()
    mindir = Path(args.mindir or work / "graph.mindir").resolve()
    if not args.mindir:
        _run([older, "export.py", "--checkpoint", args.checkpoint, "--file_name", mindir])
    samples = write_inputs(config, args.split, mindir, work / "inputs")
    for i, arrays in enumerate(_random_inputs(config)):
        for name, array in zip(INPUTS, arrays):
            array.tofile(work / "inputs" / name / f"{samples + i:06d}.bin")
    programs = {
        "MindSpore 2.9": lambda out: _mindspore(sys.executable, args, work, out),
        "MindSpore 2.0": lambda out: _mindspore(older, args, work, out),
        "Lite, Python": lambda out: _lite(config, args, mindir, work, out),
        "Lite, C++": lambda out: _program(args, mindir, work, out),
    }
    found = {}
    for number, (name, run) in enumerate(programs.items()):
        output = make_directory(work / f"{number}/result_Files")
        run(output)
        found[name] = (
            _read(output, samples, samples + RANDOM),
            _read(output, 0, samples),
            score(config, args.split, output).metrics["oIoU"],
        )
    reference = found["MindSpore 2.9"]
    print(
        f"\nlargest difference to MindSpore 2.9, of {RANDOM} random inputs and {samples} samples of {args.split}; oIoU"
    )
    for name, (random, real, oiou) in found.items():
        print(f"{name:14} {np.abs(random - reference[0]).max():.1e} {np.abs(real - reference[1]).max():.1e} {oiou:.6f}")
    values = np.concatenate([each[1].ravel() for each in found.values()])
    print(
        f"probabilities from {values.min():.3f} to {values.max():.3f}, {np.mean(values > config.evaluation.threshold):.1%} above "
        "the threshold"
    )
    worst = max(np.abs(each[i] - other[i]).max() for each in found.values() for other in found.values() for i in (0, 1))
    apart = len({f"{each[2]:.4f}" for each in found.values()}) > 1
    if args.images:
        different, pixels = _images(config, args, mindir, work)
        print(
            f"{args.images} images as files: {different} of {pixels} pixels of the masks differ between C++ and Python"
        )
    if not worst < TOLERANCE or apart:
        raise UserError(f"the programs differ, in a probability by {worst:.1e}")
    return 0


def _random_inputs(config: Config) -> list[tuple[np.ndarray, ...]]:
    """Random images with random words; in the first sample, the last third of the words is padding."""
    random = np.random.default_rng(config.run.seed)
    size, tokens = config.model.image_size, config.model.max_tokens
    made = []
    for i in range(RANDOM):
        mask = np.ones(tokens, np.int32)
        mask[tokens - (tokens // 3 if i == 0 else 0) :] = 0
        made.append(
            (
                random.standard_normal((3, size, size)).astype(np.float32),
                random.integers(1, config.model.bert_vocab_size, tokens).astype(np.int32) * mask,
                mask,
            )
        )
    return made


def _mindspore(python: str | Path, args: argparse.Namespace, work: Path, output: Path) -> None:
    _run([python, "-m", "benchmarks.mindspore_worker", Path(args.checkpoint).resolve(), work / "inputs", output])


def _lite(config: Config, args: argparse.Namespace, mindir: Path, work: Path, output: Path) -> None:
    with GraphWorker(f"{args.lite}/python/bin/python", mindir, config.data.vocab_file, 2) as lite:
        for file in sorted((work / "inputs" / INPUTS[0]).iterdir()):
            lite.run([work / "inputs" / name / file.name for name in INPUTS], output / f"{file.stem}_0.bin")


def _program(args: argparse.Namespace, mindir: Path, work: Path, output: Path) -> None:
    inputs = [f"--input{i}_path={work / 'inputs' / name}" for i, name in enumerate(INPUTS)]
    _run([find_file(args.program).resolve(), f"--mindir_path={mindir}", *inputs], output.parent)


def _images(config: Config, args: argparse.Namespace, mindir: Path, work: Path) -> tuple[int, int]:
    """Number of mask pixels that differ between the C++ program and deploy/lite_predict.py, and of all pixels."""
    split = Split(config, args.split)
    rows = evaluated_rows(config, split, args.split, args.images)
    requests = []
    for row, picture in zip(rows, split.pictures(rows, 1)):
        path = work / f"image{row}.png"
        cv2.imwrite(str(path), picture["image"][..., ::-1])
        requests.append({"image": str(path), "expression": str(split.records["expression"][row])})
    (work / "requests.jsonl").write_text("\n".join(map(json.dumps, requests)), encoding="utf-8")
    vocab = find_file(config.data.vocab_file).resolve()
    python = [find_file(f"{args.lite}/python/bin/python").absolute(), "deploy/lite_predict.py", "--model", mindir]
    ours = _answers([*python, "--vocab", vocab, "--expressions", work / "requests.jsonl", "--output", work / "python"])
    different = pixels = 0
    program = [find_file(args.program).resolve(), "--mindir_path", mindir, "--vocab", vocab, "--output", work / "c++"]
    for request, answer in zip(requests, ours):
        (theirs,) = _answers([*program, "--image", request["image"], "--expression", request["expression"]])
        masks = [cv2.imread(each["mask"], cv2.IMREAD_GRAYSCALE) for each in (answer, theirs)]
        different, pixels = different + int((masks[0] != masks[1]).sum()), pixels + masks[0].size
    return different, pixels


def _read(output: Path, first: int, last: int) -> np.ndarray:
    return np.stack([np.fromfile(output / f"{number:06d}_0.bin", np.float32) for number in range(first, last)])


def _answers(arguments: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Runs a program that prints lines of JSON."""
    print("$", *arguments, flush=True)
    done = subprocess.run([str(each) for each in arguments], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"{arguments[0]} failed: see above")
    return [json.loads(line) for line in done.stdout.splitlines()]


def _run(arguments: Sequence[str | Path], directory: Path = REPOSITORY) -> None:
    print("$", *arguments, flush=True)
    if subprocess.run([str(each) for each in arguments], cwd=directory).returncode:
        raise UserError(f"{arguments[0]} failed: see above")


if __name__ == "__main__":
    raise SystemExit(main())
