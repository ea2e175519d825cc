"""The service over HTTP: answers, batches, limits and hostile requests."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import httpx
import numpy as np
import pytest
from pycocotools import mask as coco

from coupalign.inference.exported import OnnxPredictor
from coupalign.inference.predictor import Predictor
from coupalign.inference.uploads import MAX_EXPRESSIONS
from coupalign.service.batcher import Batcher
from coupalign.service.guard import Limits
from tests.service_parts import CONFIG, PNG, StubPredictor, post, running, write_graph
from tests.test_demo_parts import large_png, picture

KEY = "0123456789abcdef"


@pytest.fixture
def stub() -> StubPredictor:
    return StubPredictor()


@pytest.fixture
def url(stub) -> Iterator[str]:
    with running(lambda: stub) as address:
        yield address


@pytest.fixture(params=["stub", "onnx"])
def each_url(request, stub, tmp_path) -> Iterator[str]:
    """Services with a stand-in for the model and with ONNX Runtime."""
    models = {"stub": lambda: stub, "onnx": lambda: OnnxPredictor(CONFIG, write_graph(tmp_path), 1)}
    with running(models[request.param]) as address:
        yield address


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
