"""Time of CoupAlign in MindSpore Lite, ONNX Runtime and MindSpore, compared with the two encoders alone in PyTorch.

    python -m benchmarks.lite_latency --model coupalign.mindir
    python -m benchmarks.lite_latency --model small.mindir --checkpoint small.ckpt --without_pytorch
    python -m benchmarks.lite_latency --model coupalign.mindir --onnx coupalign.onnx,int8.onnx --checkpoint best.ckpt

The programs that are given run on the CPU for the same image and expression, and take turns on the same number of
threads with Hugging Face's Swin and BERT, eager float32 with random weights. The script prints the median of the
per-round ratios to the first of them, which is PyTorch unless it is left out: Hugging Face's Swin cannot run feature
maps smaller than its window, which small models have. Exported graphs run in processes of their own, whose loading time
and peak memory are printed too. If the C++ program is built, it runs first, by itself. PyTorch, transformers and, for
--model, scripts/set_up_lite.sh are needed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import pytorch_encoders
from coupalign.checks import check_exists
from coupalign.cli import command, option, parse_own_arguments
from coupalign.config import load_config
from coupalign.errors import UserError
from coupalign.files import REPOSITORY, find_file
from coupalign.inference.exported import find_vocabulary, read_description

INPUTS = ("00_image", "01_token_ids", "02_token_mask")
PAUSE = 0.3  # seconds, after which the threads of the previous run sleep


OPTIONS = [
    option("--model FILE", ".mindir of export.py, exported with MindSpore 2.0"),
    option("--onnx FILE,…", ".onnx files of export.py"),
    option("--checkpoint FILE", "checkpoint to run in MindSpore, in graph mode with our kernels"),
    option("--without_pytorch", "leave out the encoders in PyTorch"),
    option("--rounds INT", "turns of each", default=9),
    option("--threads INT", "threads of each", default=2),
    option("--lite_python FILE", "Python of MindSpore Lite", default=".lite/python/bin/python"),
    option("--program FILE", "the C++ program", default="ascend310_infer/build/coupalign"),
]


@command
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_own_arguments(__doc__, argv, OPTIONS)
    graphs = []
    if args.model:
        graphs.append(("MindSpore Lite, Python", args.lite_python, check_exists(args.model, "--model")))
    for file in (check_exists(each, "--onnx") for each in (args.onnx or "").split(",") if each):
        graphs.append((f"ONNX Runtime, {file.name}", sys.executable, file))
    if not graphs:
        raise UserError("nothing to measure: give --model, --onnx or both")
    description = read_description(graphs[0][2])
    arrays = _sample(description["image"]["size"], description["text"]["max_tokens"])
    programs: dict[str, Callable[[], float]] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        inputs = _write_inputs(directory, arrays)
        # First, because loading takes more memory than running, and a child's peak in C++ starts at its parent's.
        if args.model and Path(args.program).is_file():
            print("MindSpore Lite, C++:", _run_program(args, directory), flush=True)
        workers = {}
        for title, python, file in graphs:
            vocabulary = find_vocabulary(load_config(), file)
            workers[title] = stack.enter_context(GraphWorker(python, file, vocabulary, args.threads))
        if not args.without_pytorch:
            programs["PyTorch, Swin and BERT"] = _encoders(arrays, args)
        if args.checkpoint:
            programs["MindSpore"] = _mindspore(args.checkpoint, arrays)
        for title, worker in workers.items():
            programs[title] = partial(worker.run, inputs, directory / "probability.bin")
        rounds = []
        for turn in range(args.rounds + 1):
            times = []
            for run in programs.values():
                time.sleep(PAUSE)
                times.append(run())
            if turn:  # the first turn warms up
                rounds.append(times)
    for title, times in zip(programs, zip(*rounds)):
        ratios = [one / other[0] for one, other in zip(times, rounds)]
        line = (
            f"{title}: {statistics.median(times):.0f} ms ({min(times):.0f}-{max(times):.0f}), "
            f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})"
        )
        if title in workers:
            line += f", loaded in {workers[title].load / 1000:.1f} s, peak memory {workers[title].peak:.0f} MB"
        print(line)
    return 0


class GraphWorker:
    """An exported graph in a process of its own: benchmarks/graph_worker.py.

    Attributes:
        load: Milliseconds to load runtime and model.
        peak: Peak memory in MB, known once it is closed.
    """

    def __init__(self, python: str | Path, model: Path, vocab: str | Path, threads: int):
        worker = str(REPOSITORY / "benchmarks/graph_worker.py")
        command_line = [str(find_file(python)), worker, str(model), str(find_file(vocab)), str(threads)]
        self._process = subprocess.Popen(command_line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.peak = 0.0
        self.load = self._read()

    def run(self, inputs: Sequence[Path], output: Path) -> float:
        """Runs the sample in three files and writes its probabilities. Returns the milliseconds."""
        print(*inputs, output, sep="\t", file=self._process.stdin, flush=True)
        return self._read()

    def _read(self) -> float:
        line = self._process.stdout.readline()
        if not line:
            raise UserError(f"benchmarks/graph_worker.py ended with {self._process.wait()}: see its error above")
        return float(line)

    def __enter__(self) -> GraphWorker:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.stdin.close()
        rest = self._process.stdout.read()
        self._process.wait()
        self.peak = float(rest or 0)


def _sample(size: int, tokens: int) -> list[np.ndarray]:
    """A random image (3, S, S), random token ids (T,) and the token mask (T,)."""
    random = np.random.default_rng(0)
    return [
        random.standard_normal((3, size, size)).astype(np.float32),
        random.integers(1, 200, tokens).astype(np.int32),  # in any vocabulary
        np.ones(tokens, np.int32),
    ]


def _write_inputs(directory: Path, arrays: Sequence[np.ndarray]) -> list[Path]:
    files = [directory / name / "0.bin" for name in INPUTS]
    for file, array in zip(files, arrays):
        file.parent.mkdir()
        array.tofile(file)
    return files


def _timed(run: Callable[[], object]) -> Callable[[], float]:
    """A function that calls `run` and returns the milliseconds."""

    def timed() -> float:
        start = time.perf_counter()
        run()
        return 1000 * (time.perf_counter() - start)

    return timed


def _encoders(arrays: Sequence[np.ndarray], args: argparse.Namespace) -> Callable[[], float]:
    import torch

    torch.set_num_threads(args.threads)
    image, ids, mask = (each[None] for each in arrays)
    if args.checkpoint:
        config = load_config(find_file(args.checkpoint).with_name("config.yaml"))
    else:
        config = load_config(overrides={"image_size": image.shape[-1], "max_tokens": ids.shape[-1]})
    return _timed(pytorch_encoders.inference(config, image, ids, mask))


def _mindspore(checkpoint: str, arrays: Sequence[np.ndarray]) -> Callable[[], float]:
    """On all cores of this machine, whatever the number of threads."""
    from mindspore import Tensor

    from coupalign.inference.predictor import Predictor

    model = Predictor(checkpoint).model
    inputs = [Tensor(array[None]) for array in arrays]
    return _timed(lambda: model(*inputs).asnumpy())


def _run_program(args: argparse.Namespace, directory: Path) -> str:
    """Time and memory that the C++ program reports for repeated runs of the sample."""
    for name in INPUTS:
        for number in range(1, args.rounds + 1):
            (directory / name / f"{number}.bin").hardlink_to(directory / name / "0.bin")
    arguments = [f"--input{i}_path={name}" for i, name in enumerate(INPUTS)]
    subprocess.run(
        [
            str(Path(args.program).resolve()),
            f"--mindir_path={find_file(args.model).resolve()}",
            f"--threads={args.threads}",
            *arguments,
        ],
        cwd=directory,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return (directory / "time_Result/test_perform_static.txt").read_text().strip()


if __name__ == "__main__":
    raise SystemExit(main())
