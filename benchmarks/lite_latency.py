"""Time of an exported CoupAlign in MindSpore Lite on the CPU, compared with the two encoders alone in PyTorch.

    python -m benchmarks.lite_latency --model coupalign.mindir

Lite, driven from Python, and Hugging Face's Swin-B and BERT base, eager float32 with random weights, take turns on the
same number of threads. The script prints the median of the per-round ratios. If the C++ program is built, it then runs
by itself. It needs PyTorch, transformers and scripts/set_up_lite.sh.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
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
    option("--model FILE", ".mindir of export.py, exported with MindSpore 2.0", required=True),
    option("--rounds INT", "turns of each", default=9),
    option("--threads INT", "threads of each", default=2),
    option("--lite_python FILE", "Python of MindSpore Lite", default=".lite/python/bin/python"),
    option("--vocab FILE", "vocabulary of the model", default="assets/bert-base-uncased-vocab.txt"),
    option("--program FILE", "the C++ program", default="ascend310_infer/build/coupalign"),
]


@command
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_own_arguments(__doc__, argv, OPTIONS)
    model = find_file(args.model)
    description = json.loads(model.with_suffix(".json").read_text())
    size, tokens = description["image"]["size"], description["text"]["max_tokens"]
    with tempfile.TemporaryDirectory() as directory:
        files = _write_inputs(Path(directory), size, tokens)
        encoders = _encoders(size, tokens, args.threads)
        with LiteWorker(args.lite_python, model, args.vocab, args.threads) as lite:
            output = Path(directory) / "probability.bin"
            pairs = []
            for turn in range(args.rounds + 1):
                time.sleep(PAUSE)
                ours = lite.run(files, output)
                time.sleep(PAUSE)
                theirs = encoders()
                if turn:  # the first turn warms up
                    pairs.append((ours, theirs))
        ours, theirs = zip(*pairs)
        _say("MindSpore Lite, CoupAlign, Python", ours, f"loaded in {lite.load / 1000:.1f} s, peak {lite.peak:.0f} MB")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        _say("PyTorch, Swin-B and BERT base", theirs, f"peak {peak:.0f} MB")
        ratios = [a / b for a, b in pairs]
        print(f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})")
        if Path(args.program).is_file():
            print("MindSpore Lite, CoupAlign, C++:", _run_program(args, model, Path(directory)))
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


def _write_inputs(directory: Path, size: int, tokens: int) -> list[Path]:
    random = np.random.default_rng(0)
    arrays = (
        random.standard_normal((3, size, size)).astype(np.float32),
        random.integers(1000, 30000, tokens).astype(np.int32),
        np.ones(tokens, np.int32),
    )
    files = [directory / name / "0.bin" for name in INPUTS]
    for file, array in zip(files, arrays):
        file.parent.mkdir()
        array.tofile(file)
    return files


def _encoders(size: int, tokens: int, threads: int) -> Callable[[], float]:
    """A function that runs both encoders once and returns the milliseconds."""
    import torch

    torch.set_num_threads(threads)
    words = np.ones((1, tokens), np.int32)
    image = np.random.default_rng(0).standard_normal((1, 3, size, size)).astype(np.float32)
    config = load_config(overrides={"image_size": size, "max_tokens": tokens})
    encoders = pytorch_encoders.inference(config, image, 1000 * words, words)

    def run() -> float:
        start = time.perf_counter()
        encoders()
        return 1000 * (time.perf_counter() - start)

    return run


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


def _say(what: str, times: Sequence[float], more: str) -> None:
    print(f"{what}: {statistics.median(times):.0f} ms ({min(times):.0f}-{max(times):.0f}), {more}")


if __name__ == "__main__":
    raise SystemExit(main())
