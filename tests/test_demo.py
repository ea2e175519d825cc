"""The demo page: its answers and its refusals. Its use in a browser: test_demo_browser.py."""

from __future__ import annotations

import os
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import mindspore
import numpy as np
import psutil
import pytest

from coupalign.config import load_config
from coupalign.data.images import load_image
from coupalign.data.tokenizer import Tokenizer
from coupalign.data.transform import probability_at
from coupalign.demo.engines import Answer, MindSporeEngine
from coupalign.demo.requests import ask
from coupalign.demo.serve import served
from coupalign.errors import UserError
from coupalign.files import REPOSITORY
from coupalign.inference.prediction import nothing_fits_line
from coupalign.inference.predictor import Predictor
from coupalign.overlay import spotlight, write_png
from tests.conftest import SMALLEST
from tests.test_alignment import made_up
from tests.test_demo_parts import PNG, picture

CONFIG = load_config(overrides=SMALLEST)
pytestmark = pytest.mark.slow
gradio_client = pytest.importorskip("gradio_client")


class StandIn:
    """Takes the place of a model: one channel of the image is the probability, the expression selects the channel."""

    name, threshold, explains = "a stand-in", 0.5, True

    def __init__(self):
        self.tokenizer = Tokenizer(CONFIG.data.vocab_file, CONFIG.model.max_tokens)
        self.asked, self.failing = [], None

    def answer(self, rgb, expression):
        self.asked.append(expression)
        if self.failing:
            raise self.failing
        return Answer(_probability(rgb, expression), made_up().details, 0.01, self.tokenizer.warnings(expression))


def _probability(rgb: np.ndarray, expression: str) -> np.ndarray:
    return cv2.resize(rgb, (64, 64))[..., len(expression) % 3].astype(np.float32) / 255


def expected_mask(rgb: np.ndarray, expression: str, threshold: float = StandIn.threshold) -> np.ndarray:
    return probability_at(_probability(rgb, expression), *rgb.shape[:2]) > threshold


@pytest.fixture(scope="module")
def engine():
    return StandIn()


@pytest.fixture(scope="module")
def url(engine):
    with served(engine, "127.0.0.1", 0) as url:
        yield url


@pytest.fixture
def image(tmp_path) -> Path:
    write_png(tmp_path / "desk.png", picture(0))
    return tmp_path / "desk.png"


def test_a_result_is_what_predict_writes(make_checkpoint, tmp_path):
    """With MindSpore, also in two threads at once."""
    checkpoint = make_checkpoint(CONFIG)
    rgb = picture(3, 90, 1300)
    write_png(tmp_path / "Long One.png", rgb)
    engine = MindSporeEngine(CONFIG, str(checkpoint))
    try:
        with ThreadPoolExecutor(2) as users:
            path, text = tmp_path / "Long One.png", "the red cup\nthe wall"
            results = list(users.map(lambda _: ask(engine, path, text), range(2)))
    finally:
        engine.close()
    predictor = Predictor(checkpoint, config=CONFIG)
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)  # compiling takes longer
    for number, expression in enumerate(["the red cup", "the wall"]):
        expected = predictor.predict(rgb, expression).probability
        for found in results:
            unsure = np.abs(expected - CONFIG.evaluation.threshold) < 1e-5
            mask = found.mask(number, CONFIG.evaluation.threshold)
            assert (mask == (expected > CONFIG.evaluation.threshold))[~unsure].all() and 0 < mask.mean() < 1
    assert found.mask_name(1) == "long-one-2-the-wall.mask.png"
    assert max(found.picture.shape) == 1024


@pytest.mark.parametrize("nothing_fits", [True, False])
def test_the_page_says_that_nothing_fits_instead_of_showing_a_mask(engine, image, nothing_fits):
    import gradio as gr

    from coupalign.demo.page import Row

    class Judging(StandIn):
        def answer(self, rgb, expression):
            doubts = (nothing_fits_line(0.17),) if nothing_fits else ()
            return replace(super().answer(rgb, expression), warnings=doubts, nothing_fits=nothing_fits)

    found = ask(Judging(), image, "the cup")
    mask, shown = found.mask(0, 0.3), found.spotlight(0, 0.3)
    assert mask.any() != nothing_fits
    assert (shown == spotlight(found.picture, np.zeros(found.picture.shape[:2], bool))).all() == nothing_fits
    with gr.Blocks():
        heading = Row(0, explains=False).change(found, 0.3)[0]
    assert ("nothing in this image fits" in heading and "0.17" in heading) == nothing_fits
    assert ("of the image" in heading) != nothing_fits


# The server


def find(url: str, path: Path | None, text: str, threshold: float = StandIn.threshold):
    """Sends a request with a new client. Returns the message, the masks and the client."""
    client = gradio_client.Client(url, verbose=False)
    sent = gradio_client.handle_file(path) if path else None
    outputs = client.predict(sent, text, threshold, api_name="/find")
    return re.sub("<.*?>", "", outputs[0]), masks(outputs[1:]), client


def masks(outputs: tuple) -> list[np.ndarray]:
    files = [each for each in outputs if isinstance(each, str) and each.endswith(".mask.png")]
    return [cv2.imread(file, cv2.IMREAD_UNCHANGED) == 255 for file in files]


def test_ten_users_at_once_get_their_own_answers(engine, url, tmp_path):
    asked = [
        (picture(number, 40 + number, 70), f"the {word} cup")
        for number, word in enumerate("red blue green left right small large first last other".split())
    ]
    expected = [expected_mask(*each) for each in asked]
    assert len({each.tobytes() for each in expected}) == 10
    paths = [tmp_path / f"{number}.png" for number in range(10)]
    for path, (rgb, _) in zip(paths, asked):
        write_png(path, rgb)
    with ThreadPoolExecutor(10) as users:
        answers = list(users.map(lambda path, each: find(url, path, each[1]), paths, asked))
    for (said, (mask,), _), right in zip(answers, expected):
        assert said.startswith("1 expression in ") and (mask == right).all()


def test_the_threshold_is_moved_without_the_model(engine, url, image):
    expressions = ["the red cup", "the wall"]
    said, before, client = find(url, image, "\n".join(expressions))
    assert said.startswith("2 expressions in ") and len(before) == 2
    asked = len(engine.asked)
    after = masks(client.predict(0.2, api_name="/show"))
    assert len(engine.asked) == asked
    for expression, mask, larger in zip(expressions, before, after):
        rgb = load_image(image)
        assert (mask == expected_mask(rgb, expression)).all() and (larger == expected_mask(rgb, expression, 0.2)).all()
        assert larger.sum() > mask.sum()


def test_truncated_and_unknown_words_are_reported(engine, url, image):
    client = gradio_client.Client(url, verbose=False)
    outputs = client.predict(gradio_client.handle_file(image), "cup " * 20 + "\n狗狗 cup", 0.5, api_name="/find")
    said = " ".join(each for each in outputs if isinstance(each, str))
    assert "longer than 6 word pieces" in said and "not in the vocabulary: 狗狗" in said


def test_refusals_are_a_line_without_a_path(engine, url, image, tmp_path, caplog):
    (tmp_path / "notes.png").write_text("no image at all")
    for path, text, said in [
        (None, "cup", "There is no image: choose one"),
        (image, "", "There is no expression"),
        (tmp_path / "notes.png", "cup", "notes.png is not an image"),
        (image, "cup " * 200, "has 799 characters"),
    ]:
        found, no_masks, _ = find(url, path, text)
        assert said in found and not no_masks and "/" not in found
    for error in (UserError("/srv/models/best.ckpt is broken"), RuntimeError("/srv/models")):
        engine.failing = error
        try:
            found, no_masks, _ = find(url, image, "cup")
        finally:
            engine.failing = None
        assert found == "The server could not answer this; the reason is in its log." and not no_masks
        assert "/srv/models" in caplog.text


@pytest.mark.parametrize("where", ["path", "url"])
@pytest.mark.parametrize("source", ["SECRET", "EXAMPLE", "OTHER"])
def test_files_of_the_server_and_of_others_are_not_read(engine, url, image, where, source):
    import httpx

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        other.settimeout(0.2)
        source = {
            "SECRET": str(image),
            "EXAMPLE": str(REPOSITORY / "assets/examples/val_000000.png"),
            "OTHER": f"http://127.0.0.1:{other.getsockname()[1]}/x.png",
        }[source]
        asked = len(engine.asked)
        sent = {"path": "x.png", where: source, "meta": {"_type": "gradio.FileData"}}
        event = httpx.post(f"{url}gradio_api/call/find", json={"data": [sent, "cup", 0.5]}).json()["event_id"]
        answer = httpx.get(f"{url}gradio_api/call/find/{event}", timeout=20).text
        with pytest.raises(TimeoutError):
            other.accept()
    assert len(engine.asked) == asked
    assert "event: error" in answer and str(REPOSITORY) not in answer.replace(source, "")


def test_a_large_upload_is_cut_short(url):
    import httpx

    answer = httpx.post(f"{url}gradio_api/upload", files={"files": ("big.png", PNG + b"\0" * 50 * 2**20)})
    assert answer.status_code == 413 and "maximum allowed size" in answer.text
    assert os.environ["GRADIO_TEMP_DIR"] not in answer.text


def test_it_listens_to_this_machine_alone_and_names_no_other(url):
    import httpx

    port = int(url.rstrip("/").rsplit(":", 1)[1])
    listening = [each.laddr for each in psutil.Process().net_connections() if each.status == psutil.CONN_LISTEN]
    assert [address.ip for address in listening if address.port == port] == ["127.0.0.1"]
    policy = httpx.get(url).headers["content-security-policy"]
    assert policy.startswith("default-src 'self' data: blob:") and "http" not in policy
    assert str(REPOSITORY) not in httpx.get(f"{url}config").text


def test_an_address_that_cannot_be_used_is_reported(engine):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"127.0.0.1:{port} cannot be used"), served(engine, "127.0.0.1", port):
            pass
    for port in (70000, 1023, 80, -1):
        with pytest.raises(UserError, match=f"--port {port}: .*1024 to 65535"), served(engine, "127.0.0.1", port):
            pass
