"""The demo page: its answers, its refusals, and its use in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from coupalign.config import load_config
from coupalign.data.images import load_image
from coupalign.demo.engines import MindSporeEngine
from coupalign.demo.requests import ask
from coupalign.demo.serve import served
from coupalign.errors import UserError
from coupalign.files import REPOSITORY
from coupalign.overlay import write_png
from tests.conftest import SMALLEST
from tests.test_demo_parts import PNG, picture

CONFIG = load_config(overrides=SMALLEST)
pytestmark = pytest.mark.slow
gradio_client = pytest.importorskip("gradio_client")


class Counting(MindSporeEngine):
    """Records the expressions of all requests, and fails on demand."""

    def __init__(self, *args):
        super().__init__(*args)
        self.asked, self.failing = [], None

    def answer(self, rgb, expression):
        self.asked.append(expression)
        if self.failing:
            raise self.failing
        return super().answer(rgb, expression)


@pytest.fixture(scope="module")
def engine(make_checkpoint):
    engine = Counting(CONFIG, str(make_checkpoint(CONFIG)))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def url(engine):
    with served(engine, "127.0.0.1", 0) as url:
        yield url


@pytest.fixture
def image(tmp_path) -> Path:
    write_png(tmp_path / "desk.png", picture(0))
    return tmp_path / "desk.png"


def expected_mask(engine: MindSporeEngine, rgb: np.ndarray, expression: str) -> np.ndarray:
    """What ``predict.py`` would write."""
    predict = engine._predictor.predict
    return engine._thread.submit(predict, rgb, expression, proposals=True).result().mask


# Answers


def test_a_result_is_what_predict_writes(engine, tmp_path):
    rgb = picture(3, 90, 1300)
    write_png(tmp_path / "Long One.png", rgb)
    found = ask(engine, tmp_path / "Long One.png", "the red cup\nthe wall")
    for number, expression in enumerate(["the red cup", "the wall"]):
        expected = expected_mask(engine, rgb, expression)
        assert (found.mask(number, CONFIG.evaluation.threshold) == expected).all() and 0 < expected.mean() < 1
    assert found.mask_name(1) == "long-one-2-the-wall.mask.png"
    assert max(found.picture.shape) == 1024


# The server


def find(url: str, path: Path | None, text: str, threshold: float = CONFIG.evaluation.threshold):
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
    expected = [expected_mask(engine, *each) for each in asked]
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
        probability = (
            engine._thread.submit(engine._predictor.predict, load_image(image), expression, proposals=True)
            .result()
            .probability
        )
        assert (mask == (probability > CONFIG.evaluation.threshold)).all() and (larger == (probability > 0.2)).all()
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


# A browser


@pytest.fixture(scope="module")
def browser():
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if None in programs:
        pytest.skip("no chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for each in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--window-size=1280,1100",
    ):
        options.add_argument(each)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    yield driver
    driver.quit()


def all_of(browser, selector: str):
    return browser.find_elements("css selector", selector)


def until(browser, what):
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    redrawn = [StaleElementReferenceException]  # between being found and being read
    return WebDriverWait(browser, 30, ignored_exceptions=redrawn).until(lambda _: what())


def open_page(browser, url: str) -> None:
    browser.get(url)
    until(browser, lambda: all_of(browser, "#image input[type=file]") and all_of(browser, "#examples button"))
    # What is there may not listen yet: a file chosen at once is at times lost.
    browser.execute_async_script("requestIdleCallback(arguments[0])")


def upload(browser, path: Path) -> None:
    all_of(browser, "#image input[type=file]")[0].send_keys(str(path))


def message(browser) -> str:
    return all_of(browser, "#message")[0].text


@pytest.mark.browser
def test_in_a_browser_a_mask_is_found_and_moved(browser, engine, url, image, tmp_path):
    from selenium.webdriver import Keys

    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    open_page(browser, url)
    upload(browser, image)
    until(browser, lambda: all_of(browser, "#image img"))
    all_of(browser, "#text textarea")[0].send_keys("the red cup\nthe wall")
    all_of(browser, "#find")[0].click()
    until(browser, lambda: "2 expressions in" in message(browser))
    shown = until(browser, lambda: [each for each in all_of(browser, ".mask img") if each.is_displayed()])
    until(browser, lambda: all(each.get_property("naturalWidth") == 480 for each in shown))
    assert len(shown) == 2 and "the wall" in all_of(browser, "#row-1 .heading")[0].text

    def downloaded() -> np.ndarray:
        file = tmp_path / "desk-1-the-red-cup.mask.png"
        file.unlink(missing_ok=True)
        all_of(browser, "#row-0 .download")[0].click()
        until(browser, file.is_file)
        return cv2.imread(str(file), cv2.IMREAD_UNCHANGED) == 255

    expected = expected_mask(engine, load_image(image), "the red cup")
    assert (downloaded() == expected).all()

    def heading() -> str:
        return all_of(browser, "#row-0 .heading")[0].text

    asked, headings = len(engine.asked), {heading()}
    number = all_of(browser, "#threshold input[type=number]")[0]
    for typed, moved in (("0", np.greater), ("0.6", np.less)):  # both by way of nothing and of less than any threshold
        number.send_keys(Keys.CONTROL, "a")
        number.send_keys(Keys.BACKSPACE, typed)
        until(browser, lambda: heading() not in headings)
        headings.add(heading())
        mask = downloaded()
        assert mask.any() and moved(mask.sum(), expected.sum())
    assert len(engine.asked) == asked
    assert not all_of(browser, ".toast-body")
    all_of(browser, "#row-1 .alignment button")[0].click()
    drawn = until(browser, lambda: all_of(browser, "#row-1 .alignment img"))[0]
    until(browser, lambda: drawn.get_property("naturalWidth") > 1000)
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    addresses = [each["params"]["request"]["url"] for each in sent if each["method"] == "Network.requestWillBeSent"]
    assert len(addresses) > 10
    assert [each for each in addresses if not each.startswith((url, "data:", "blob:"))] == []


@pytest.mark.browser
def test_in_a_browser_an_example_is_a_click(browser, engine, url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # Gradio hands on any file of the working directory
    open_page(browser, url)
    all_of(browser, "#examples button")[0].click()
    until(browser, lambda: "in MindSpore" in message(browser))


@pytest.mark.browser
def test_in_a_browser_wrong_files_are_refused_politely(browser, url, tmp_path):
    (tmp_path / "notes.txt").write_text("no image at all")
    (tmp_path / "notes.png").write_text("no image at all")
    (tmp_path / "large.png").write_bytes(PNG + b"\0" * 50 * 2**20)

    def notice() -> str:
        return " ".join(each.text for each in all_of(browser, ".toast-body"))

    for name, said in (("notes.txt", "Invalid file type"), ("large.png", "exceed the maximum allowed size of 10")):
        open_page(browser, url)
        upload(browser, tmp_path / name)
        until(browser, lambda said=said: said in notice())
        assert str(tmp_path) not in notice() and not all_of(browser, "#image img")
    open_page(browser, url)
    upload(browser, tmp_path / "notes.png")
    until(browser, lambda: all_of(browser, "#image img"))
    all_of(browser, "#text textarea")[0].send_keys("cup")
    all_of(browser, "#find")[0].click()
    until(browser, lambda: message(browser) == "notes.png is not an image, or is damaged: choose a JPEG or PNG file.")


@pytest.mark.browser
def test_in_a_narrow_window_nothing_sticks_out(browser, url):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        open_page(browser, url)
        time.sleep(0.5)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
        assert all_of(browser, "#find")[0].size["width"] > 250
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
