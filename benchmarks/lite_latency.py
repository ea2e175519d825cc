"""Time of CoupAlign in MindSpore Lite, ONNX Runtime and MindSpore, compared with the two encoders alone in PyTorch.

    python -m benchmarks.lite_latency --model coupalign.mindir
    python -m benchmarks.lite_latency --model small.mindir --checkpoint small.ckpt --without_pytorch
    python -m benchmarks.lite_latency --model coupalign.mindir --onnx coupalign.onnx,int8.onnx --checkpoint best.ckpt

The programs that are given run on the CPU for the same image and expression, and take turns on the same number of
threads with Hugging Face's Swin and BERT, eager float32 with random weights. The script prints the median of the
per-round ratios to the first of them, which is PyTorch unless it is left out: Hugging Face's Swin cannot run feature
maps smaller than its window, which small models have. If the C++ program is built, it then runs by itself. PyTorch,
transformers and, for --model, scripts/set_up_lite.sh are needed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks import pytorch_encoders
from coupalign.cli import command, option, parse_own_arguments
from coupalign.config import load_config
from coupalign.errors import UserError
from coupalign.files import REPOSITORY, find_file

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
    option("--vocab FILE", "vocabulary of the model", default="assets/bert-base-uncased-vocab.txt"),
    option("--program FILE", "the C++ program", default="ascend310_infer/build/coupalign"),
]


@command
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_own_arguments(__doc__, argv, OPTIONS)
    files = [find_file(each) for each in (args.onnx or "").split(",") if each]
    if not args.model and not files:
        raise UserError("nothing to measure: give --model, --onnx or both")
    description = json.loads((find_file(args.model) if args.model else files[0]).with_suffix(".json").read_text())
    arrays = _sample(description["image"]["size"], description["text"]["max_tokens"])
    programs: dict[str, Callable[[], float]] = {}
    if not args.without_pytorch:
        programs["PyTorch, Swin and BERT"] = _encoders(arrays, args)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        if args.checkpoint:
            programs["MindSpore"] = _mindspore(args.checkpoint, arrays)
        for file in files:
            programs[f"ONNX Runtime, {file.name}"] = _onnx(file, arrays, args.threads)
        if args.model:
            inputs = _write_inputs(directory, arrays)
            lite = stack.enter_context(LiteWorker(args.lite_python, find_file(args.model), args.vocab, args.threads))
            programs["MindSpore Lite, Python"] = lambda: lite.run(inputs, directory / "probability.bin")
        rounds = []
        for turn in range(args.rounds + 1):
            times = []
            for run in programs.values():
                time.sleep(PAUSE)
                times.append(run())
            if turn:  # the first turn warms up
                rounds.append(times)
        for name, times in zip(programs, zip(*rounds)):
            ratios = [one / other[0] for one, other in zip(times, rounds)]
            print(
                f"{name}: {statistics.median(times):.0f} ms ({min(times):.0f}-{max(times):.0f}), "
                f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})"
            )
        if args.model:
            stack.close()
            print(f"MindSpore Lite: loaded in {lite.load / 1000:.1f} s, peak {lite.peak:.0f} MB")
            if Path(args.program).is_file():
                print("MindSpore Lite, C++:", _run_program(args, find_file(args.model), directory))
            else:
                print(f"no {args.program}: the C++ program was not run")
    return 0


class LiteWorker:
    """MindSpore Lite in its own process.

    Attributes:
        load: Milliseconds to load the model.
        peak: Peak memory in MB, known once it is closed.
    """

    def __init__(self, python: str, model: Path, vocab: str, threads: int):
        worker = str(REPOSITORY / "benchmarks/lite_worker.py")
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
            raise UserError(f"benchmarks/lite_worker.py ended with {self._process.wait()}: see its error above")
        return float(line)

    def __enter__(self) -> LiteWorker:
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


def _onnx(file: Path, arrays: Sequence[np.ndarray], threads: int) -> Callable[[], float]:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
    inputs = {each.name: array[None] for each, array in zip(session.get_inputs(), arrays)}
    return _timed(lambda: session.run(None, inputs))


def _mindspore(checkpoint: str, arrays: Sequence[np.ndarray]) -> Callable[[], float]:
    """On all cores of this machine, whatever the number of threads."""
    from mindspore import Tensor

    from coupalign.inference.predictor import Predictor

    model = Predictor(checkpoint).model
    inputs = [Tensor(array[None]) for array in arrays]
    return _timed(lambda: model(*inputs).asnumpy())


def _run_program(args: argparse.Namespace, model: Path, directory: Path) -> str:
    """Time and memory that the C++ program reports for repeated runs of the sample."""
    for name in INPUTS:
        for number in range(1, args.rounds + 1):
            (directory / name / f"{number}.bin").hardlink_to(directory / name / "0.bin")
    arguments = [f"--input{i}_path={name}" for i, name in enumerate(INPUTS)]
    subprocess.run(
        [
            str(Path(args.program).resolve()),
            f"--mindir_path={model.resolve()}",
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
