"""serve.py: its options, and a graph that it serves without MindSpore."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from pycocotools import mask as coco

from coupalign.commands.serve import main, read_key
from coupalign.data.transform import MEAN, STD
from coupalign.errors import UserError
from coupalign.files import REPOSITORY
from tests.service_parts import post, write_graph
from tests.test_demo_parts import picture


@pytest.fixture
def graph(tmp_path) -> Path:
    return write_graph(tmp_path)


def test_mistakes_are_named_before_a_model_is_loaded(tmp_path, refuses):
    (tmp_path / "key").write_text("short")
    with pytest.raises(UserError, match="write a random key of 16 or more"):
        read_key(tmp_path / "key")
    assert "--max_requests is 0" in refuses(main, ["--max_requests", "0"])
    assert "no checkpoint" in refuses(main, ["--checkpoint", str(tmp_path / "none.ckpt")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "{graph}"], "--engine onnx"),
        (["--engine", "onnx"], "--model FILE"),
        (["--engine", "onnx", "--model", "none.onnx"], "no file or directory none.onnx"),
        (["--engine", "onnx", "--model", "{graph}", "--threads", "-1"], "--threads is -1"),
        (["--engine", "onnx", "--model", "{graph}", "--threshold", "0.7"], "--threshold is not used"),
        (["--engine", "onnx", "--model", "{graph}", "--batch_pairs", "4"], "--batch_pairs are for --engine mindspore"),
        (["--engine", "onnx", "--model", "{empty}", "--port", "0"], "damaged, or not an ONNX graph"),
    ],
)
def test_options_that_do_not_fit_the_engine(graph, refuses, arguments, message):
    (empty := graph.with_name("empty.onnx")).touch()
    empty.with_suffix(".json").write_text(graph.with_suffix(".json").read_text())
    assert message in refuses(main, [each.format(graph=graph, empty=empty) for each in arguments])


def test_an_exported_graph_is_served_without_mindspore(graph, tmp_path):
    (tmp_path / "mindspore.py").write_text("raise ImportError('the service must not need it')")
    path = f"{tmp_path}{os.pathsep}{REPOSITORY / 'src'}"
    environment = {**os.environ, "PYTHONPATH": path, "HOME": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    command = [sys.executable, str(REPOSITORY / "serve.py"), "--engine", "onnx", "--model", str(graph), "--port", "0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            url = server.stdout.readline().split("/openapi.json")[0]
            while True:
                with contextlib.suppress(httpx.ConnectError):
                    answer = post(url, "a qxzj cup").json()
                    break
        finally:
            server.terminate()
    assert server.returncode in (0, -15)
    assert not (tmp_path / ".cache").exists()  # where ONNX Runtime keeps the telemetry that it sends
    square = cv2.resize(picture(1), (64, 64), interpolation=cv2.INTER_LINEAR)
    probability = 1 / (1 + np.exp(-(square[..., 0].astype(np.float64) - MEAN[0]) / STD[0]))
    probability = cv2.resize(probability, (70, 50), interpolation=cv2.INTER_LINEAR)
    (found,) = answer["results"]
    near = np.abs(probability - 0.4) < 1e-5  # may round either way
    assert (coco.decode(found["rle"]).astype(bool) == (probability > 0.4))[~near].all()
    assert found["score"] == pytest.approx(probability.max(), abs=1e-5)
    assert found["warnings"] == ["words that are not in the vocabulary: qxzj"]
