"""Runs samples in an exported graph for the benchmarks: a .mindir in MindSpore Lite's own Python, an .onnx in any.

    python graph_worker.py MODEL VOCAB THREADS

Each line of standard input names the three input files of a sample, as preprocess.py writes them, and the output file
of its probabilities, separated by tabs. Each line of standard output is the time in milliseconds. The first line of
output is the time to load runtime and model, the last one the peak memory in MB.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("GLOG_v", "4")  # Lite's log
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "deploy"))

import numpy as np
from lite_predict import LiteModel
from onnx_predict import OnnxModel
from resident import resident


def main(model, vocab, threads):
    start = time.perf_counter()
    graph = (OnnxModel if model.endswith(".onnx") else LiteModel)(model, vocab, threads=int(threads))
    print(1000 * (time.perf_counter() - start), flush=True)
    size, tokens = graph.description["image"]["size"], graph.description["text"]["max_tokens"]
    for line in sys.stdin:
        image, token_ids, token_mask, output = line.rstrip("\n").split("\t")
        arrays = (
            np.fromfile(image, np.float32).reshape(3, size, size),
            np.fromfile(token_ids, np.int32),
            np.fromfile(token_mask, np.int32),
        )
        assert arrays[1].size == arrays[2].size == tokens
        start = time.perf_counter()
        probability = graph.outputs(*(each[None] for each in arrays))[0]
        milliseconds = 1000 * (time.perf_counter() - start)
        probability.tofile(output)
        print(milliseconds, flush=True)
    print(resident("VmHWM") / 1e6, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
