"""The service over HTTP: answers, batches, limits and hostile requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import httpx
import mindspore  # noqa: F401, before onnx, as in the package
import numpy as np
import onnx
import pytest
import uvicorn
from pycocotools import mask as coco

from coupalign.checks import free_port
from coupalign.commands.serve import main, read_key
from coupalign.config import load_config
from coupalign.data.tokenizer import Tokenizer
from coupalign.data.transform import MEAN, STD
from coupalign.errors import UserError
from coupalign.files import REPOSITORY, find_file
from coupalign.inference.exported import OnnxPredictor
from coupalign.inference.prediction import Prediction
from coupalign.inference.predictor import Predictor
from coupalign.inference.uploads import MAX_EXPRESSIONS
from coupalign.service.app import Metrics, build_app
from coupalign.service.batcher import Batcher
from coupalign.service.guard import Limits
from tests.conftest import SMALLEST
from tests.test_demo_parts import large_png, picture
from tests.test_deployment import describe

CONFIG = load_config(overrides=SMALLEST)
LIMITS = Limits(seconds=20)
KEY = "0123456789abcdef"
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


@pytest.fixture
def stub() -> StubPredictor:
    return StubPredictor()


@pytest.fixture
def url(stub) -> Iterator[str]:
    with running(lambda: stub) as address:
        yield address


@pytest.fixture
def graph(tmp_path) -> Path:
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
    path = describe(tmp_path).with_suffix(".onnx")
    onnx.save(onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8), path)
    return path


@pytest.fixture(params=["stub", "onnx"])
def each_url(request, stub, graph) -> Iterator[str]:
    """Services with a stand-in for the model and with ONNX Runtime."""
    with running(lambda: stub if request.param == "stub" else OnnxPredictor(CONFIG, graph, 1)) as address:
        yield address


def post(url: str, *expressions: str, content: bytes = PNG, headers=None, **fields) -> httpx.Response:
    data = {"expressions": list(expressions), **fields}
    return httpx.post(f"{url}/v1/segment", files={"image": ("a.png", content)}, data=data, headers=headers, timeout=60)


def test_masks_boxes_and_scores_of_several_expressions(url, stub):
    answer = post(url, "the left  cup", "lamp").json()
    assert (answer["height"], answer["width"]) == (50, 70)
    assert [each["expression"] for each in answer["results"]] == ["the left cup", "lamp"]
    for found in answer["results"]:
        expected = stub.predict(picture(1), found["expression"])
        np.testing.assert_array_equal(coco.decode(found["rle"]), expected.mask)
        assert tuple(found["box"]) == expected.box and found["score"] == pytest.approx(expected.score)
        assert found["warnings"] == list(expected.warnings) and not found["nothing_fits"]


def test_a_mask_as_png(url, stub):
    answer = post(url, "lamp", output="png")
    assert answer.headers["content-type"] == "image/png"
    mask = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(mask, stub.predict(picture(1), "lamp").mask * np.uint8(255))
    answer = post(url, "der Löffel", output="png")
    assert answer.headers["x-warnings"].isascii() and json.loads(answer.headers["x-warnings"]) == ["about der Löffel"]
    assert "single expression" in post(url, "lamp", "cup", output="png").json()["error"]


def test_what_arrives_together_is_one_batch_and_each_gets_its_own_answer(url, stub):
    stub.batches.clear()
    stub.gate.clear()
    names = [f"cup {'x' * number}" for number in range(9)]
    with ThreadPoolExecutor(9) as pool:
        answers = [pool.submit(post, url, name) for name in names]
        while httpx.get(f"{url}/healthz").status_code != 200 or not stub.batches:
            time.sleep(0.01)
        time.sleep(0.5)  # for the others to arrive
        stub.gate.set()
        for name, answer in zip(names, answers):
            found = answer.result().json()["results"][0]
            np.testing.assert_array_equal(coco.decode(found["rle"]), stub.predict(picture(1), name).mask)
    assert sum(map(len, stub.batches)) == 9 and len(stub.batches) < 9
    assert "coupalign_batch_pairs_sum" in httpx.get(f"{url}/metrics").text


@pytest.mark.parametrize(
    ("content", "expressions", "status", "said"),
    [
        (b"just some words", ["cup"], 400, "is not an image"),
        (PNG[:200], ["cup"], 400, "is not an image"),
        (large_png(60000), ["cup"], 400, "more than 25 million pixels"),
        (b"\0" * (50 * 2**20), ["cup"], 413, "larger than"),
        (PNG, ["cup", " "], 400, "has no word"),
        (PNG, ["cup"] * (MAX_EXPRESSIONS + 1), 400, "at most 6"),
        (PNG, ["!!!"], 400, "has no word"),
        (PNG, ["x" * 301], 400, "at most 300"),
        (PNG, [], 422, "expressions"),
    ],
)
def test_what_cannot_be_used_is_refused(each_url, content, expressions, status, said):
    answer = post(each_url, *expressions, content=content)
    assert answer.status_code == status and said in answer.json()["error"]
    assert post(each_url, "cup").status_code == 200


def test_a_body_without_a_length_is_cut_off(each_url):
    def endless() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in range(50):
            yield b"\0" * 2**20

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert httpx.post(f"{each_url}/v1/segment", content=endless(), headers=headers).status_code == 413
    assert post(each_url, "cup").status_code == 200


def test_failures_of_the_model_show_nothing_of_the_server(url):
    answer = post(url, "fail")
    assert answer.status_code == 500 and "secret" not in answer.text
    assert post(url, "cup").status_code == 200


def test_a_pair_that_fails_spares_the_others_of_its_batch(stub):
    batcher = Batcher(lambda: stub, 4)
    stub.batches.clear()
    stub.gate.clear()

    async def together() -> list:
        blocked = asyncio.create_task(batcher.predict(picture(1), ["lamp"]))
        while not stub.batches:
            await asyncio.sleep(0.01)
        others = [asyncio.create_task(batcher.predict(picture(1), [name])) for name in ("cup", "fail", "vase")]
        await asyncio.sleep(0)  # all wait now
        stub.gate.set()
        return await asyncio.gather(blocked, *others, return_exceptions=True)

    try:
        (lamp,), (cup,), error, (vase,) = asyncio.run(together())
    finally:
        batcher.close()
    assert stub.batches[1] == ["cup", "fail", "vase"] and isinstance(error, RuntimeError)
    for name, found in (("lamp", lamp), ("cup", cup), ("vase", vase)):
        np.testing.assert_array_equal(found.mask, stub.predict(picture(1), name).mask)


def test_requests_need_the_key_and_health_does_not(stub):
    with running(lambda: stub, Limits(key=KEY)) as url:
        for headers in (None, {"X-API-Key": "wrong"}, {"X-API-Key": ""}):
            answer = post(url, "cup", headers=headers)
            assert answer.status_code == 401 and "X-API-Key" in answer.json()["error"]
        assert post(url, "cup", headers={"X-API-Key": KEY}).status_code == 200
        assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}


def test_more_requests_than_allowed_are_told_to_come_back(stub):
    with running(lambda: stub, Limits(requests=2, seconds=30)) as url, ThreadPoolExecutor(2) as pool:
        stub.batches.clear()
        stub.gate.clear()
        waiting = [pool.submit(post, url, f"cup {number}") for number in range(2)]
        while True:
            answer = post(url, "lamp") if stub.batches else None
            if answer is not None and answer.status_code == 503:
                break
            time.sleep(0.05)
        assert answer.headers["retry-after"] == "1" and "try again" in answer.json()["error"]
        stub.gate.set()
        assert {each.result().status_code for each in waiting} <= {200, 503}
        assert post(url, "lamp").status_code == 200


def test_requests_that_take_too_long_are_ended(stub):
    """A model that hangs gives 503, a client that sends too slowly 408."""
    with running(lambda: stub, Limits(seconds=0.5)) as url:
        stub.gate.clear()
        assert post(url, "cup").status_code == 503
        stub.gate.set()
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as slow:
            head = "POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
            slow.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n--x".encode())
            assert slow.recv(4096).startswith(b"HTTP/1.1 408")
        assert post(url, "cup").status_code == 200


def test_the_description_names_every_answer(url):
    described = httpx.get(f"{url}/openapi.json").json()
    answers = described["paths"]["/v1/segment"]["post"]["responses"]
    assert {"200", "400", "401", "408", "413", "422", "503"} <= set(answers)
    assert httpx.get(f"{url}/docs").status_code == 404  # its scripts would come from another server


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


@pytest.mark.slow
def test_answers_equal_those_of_the_predictor(checkpoint, tmp_path):
    """One request alone and several together, with a real model."""
    (tmp_path / "a.png").write_bytes(PNG)
    direct = Predictor(checkpoint)
    names = ["the red cup", "a lamp", "the left star"]
    expected = {name: direct.predict(tmp_path / "a.png", name) for name in names}
    with running(lambda: Predictor(checkpoint)) as url:
        for found in (*post(url, *names).json()["results"], *post(url, names[0]).json()["results"]):
            one = expected[found["expression"]]
            near = np.abs(one.probability - direct.config.evaluation.threshold) < 1e-4  # may round either way
            assert (coco.decode(found["rle"]).astype(bool) == one.mask)[~near].all()
            assert found["score"] == pytest.approx(one.score, abs=1e-4)
