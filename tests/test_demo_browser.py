"""The demo page in headless Chromium."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from coupalign.data.images import load_image
from tests import test_demo
from tests.test_demo import expected_mask
from tests.test_demo_parts import PNG

pytestmark = [pytest.mark.slow, pytest.mark.browser]
engine, url, image = test_demo.engine, test_demo.url, test_demo.image  # fixtures


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

    expected = expected_mask(load_image(image), "the red cup")
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


def test_in_a_browser_an_example_is_a_click(browser, engine, url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # Gradio hands on any file of the working directory
    open_page(browser, url)
    all_of(browser, "#examples button")[0].click()
    until(browser, lambda: "in a stand-in" in message(browser))


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
