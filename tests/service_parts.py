"""A stand-in for the model of the service, a graph in ONNX, the service on a free port, and requests to it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import httpx
import mindspore  # noqa: F401, before onnx, as in the package
import numpy as np
import onnx
import uvicorn

from coupalign.checks import free_port
from coupalign.config import load_config
from coupalign.data.tokenizer import Tokenizer
from coupalign.files import find_file
from coupalign.inference.prediction import Prediction
from coupalign.service.app import Metrics, build_app
from coupalign.service.batcher import Batcher
from coupalign.service.guard import Limits
from tests.conftest import SMALLEST
from tests.test_demo_parts import picture
from tests.test_deployment import describe

CONFIG = load_config(overrides=SMALLEST)
LIMITS = Limits(seconds=20)
PNG = cv2.imencode(".png", picture(1)[..., ::-1])[1].tobytes()  # 50 x 70 pixels


class StubPredictor:
    """A model whose mask is the pixels that are brighter than the length of the expression; `gate` lets batches run."""

    def __init__(self):
        self.tokenizer = Tokenizer(find_file(CONFIG.data.vocab_file), CONFIG.model.max_tokens)
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[list[str]] = []

    def predict_batch(self, images, expressions, batch_size):
        assert len(expressions) <= batch_size
        self.batches.append(expressions)
        assert self.gate.wait(60)
        if "fail" in expressions:
            raise RuntimeError("secret path")
        return [self.predict(image, expression) for image, expression in zip(images, expressions)]

    def predict(self, image: np.ndarray, expression: str) -> Prediction:
        probability = image[..., 0].astype(np.float32) / 255
        return Prediction(probability > len(expression) / 100, probability, warnings=(f"about {expression}",))


@contextlib.contextmanager
def running(load, limits: Limits = LIMITS, batch_pairs: int = 4) -> Iterator[str]:
    """The service of the predictor that `load` makes, on a free port; yields its address."""
    metrics = Metrics()
    batcher = Batcher(load, batch_pairs, metrics.batches.observe)
    port = free_port("127.0.0.1", 0)
    app = build_app(batcher, metrics, limits)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical", timeout_keep_alive=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
        batcher.close()


def write_graph(directory: Path) -> Path:
    """A graph in ONNX whose probability is the sigmoid of the normalised red channel, with its description."""
    tensor, float32 = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    text = [tensor(name, onnx.TensorProto.INT32, ["batch", 8]) for name in ("token_ids", "token_mask")]
    nodes = [onnx.helper.make_node("Gather", ["image", "first"], ["red"], axis=1)]
    nodes.append(onnx.helper.make_node("Sigmoid", ["red"], ["probability"]))
    made = onnx.helper.make_graph(
        nodes,
        "graph",
        [tensor("image", float32, ["batch", 3, 64, 64]), *text],
        [tensor("probability", float32, ["batch", 64, 64])],
        [onnx.numpy_helper.from_array(np.array(0, np.int64), "first")],
    )
    path = describe(directory).with_suffix(".onnx")
    onnx.save(onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def post(url: str, *expressions: str, content: bytes = PNG, headers=None, **fields) -> httpx.Response:
    data = {"expressions": list(expressions), **fields}
    return httpx.post(f"{url}/v1/segment", files={"image": ("a.png", content)}, data=data, headers=headers, timeout=60)
