"""The page: what stands where, and what happens when something is pressed."""

from __future__ import annotations

import html
import json
import time
import traceback

import gradio as gr

from coupalign.demo.asked import MAX_EXPRESSIONS, MAX_MEGABYTES, Refused
from coupalign.demo.engines import Engine
from coupalign.demo.results import Result, ask
from coupalign.demo.row import Row
from coupalign.files import REPOSITORY

EXAMPLES = REPOSITORY / "assets/examples"
_KEPT_SECONDS = 3600  # of uploads, pictures and results
_TITLE = "CoupAlign: the mask of what a sentence names"
_THRESHOLDS = 0.01, 0.99
# While 0.2 is typed, the field holds nothing, then 0. Refused, they would take the 0.2 that waits behind them along.
_IN_RANGE = "(found, above) => [found, Math.min(Math.max(above, {}), {})]".format(*_THRESHOLDS)
_WAITING = 50  # requests in the queue, at most
_FAILED = "The server could not answer this; its log says why."
CSS = """
.gradio-container {width: 100% !important; max-width: 1180px !important; margin: 0 auto !important}
.html-container {padding: 0 !important}
.said {padding: 8px 12px; border-radius: 6px; background: var(--background-fill-secondary); font-size: 1rem}
.refused {background: #fdecea; color: #8c1d18; border: 1px solid #f3b7b1}
.said, .heading {overflow-wrap: anywhere}
.mask img, .probability img {max-height: 65vh}
.made-of *:has(> img) {overflow-x: auto; justify-content: flex-start}
.made-of img {min-width: 820px}
.answer {border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 14px; gap: 10px}
.heading b {font-size: 1.1rem}
.heading span {display: block; opacity: .75}
.heading span, .legend {font-size: .9rem}
.legend {display: flex; gap: 8px; align-items: center; justify-content: flex-end}
.legend i {width: 140px; height: 10px}
"""


def build_page(engine: Engine) -> gr.Blocks:
    """The page of a model that is loaded, to be launched with ``CSS``."""
    ready = examples()
    with gr.Blocks(title=_TITLE, analytics_enabled=False, delete_cache=(600, _KEPT_SECONDS)) as page:
        gr.Markdown(f"# {_TITLE}")
        with gr.Row():
            with gr.Column(min_width=300):
                image = gr.Image(
                    label=f"Image (JPEG or PNG, up to {MAX_MEGABYTES} MB)",
                    type="filepath",
                    height=330,
                    sources=["upload", "clipboard"],
                    elem_id="image",
                    buttons=[],
                )
                _leave_unopened(image)
            with gr.Column(min_width=300):
                text = gr.Textbox(
                    label="Expressions, one a line",
                    lines=3,
                    max_lines=MAX_EXPRESSIONS,
                    elem_id="text",
                    placeholder="the left cup\nman in the red shirt",
                )
                button = gr.Button("Find", variant="primary", elem_id="find")
                shelf = gr.Dataset(
                    components=["image"],
                    samples=[[each["image"]] for each in ready],
                    type="index",
                    layout="gallery",
                    elem_id="examples",
                    label="Or try an example (RefShapes, synthetic)",
                )
        message = gr.HTML(_said("Choose an image and say what to find in it."), elem_id="message", padding=False)
        threshold = gr.Slider(
            *_THRESHOLDS,
            engine.threshold,
            step=0.01,
            elem_id="threshold",
            label="Threshold: pixels of a higher probability belong to the mask",
        )
        rows = [Row(number, engine.explains) for number in range(MAX_EXPRESSIONS)]
        result = gr.State(None, time_to_live=_KEPT_SECONDS)

        def find(path: str | None, lines: str, above: float) -> list:
            start = time.perf_counter()
            try:
                found = ask(engine, path, lines)
                updates = [update for row in rows for update in row.filled(found, above)]
                return [found, _answered(engine, found, time.perf_counter() - start), *updates]
            except Refused as error:
                said = str(error)
            except Exception:  # what it says may name files of the server
                traceback.print_exc()
                said = _FAILED
            return [None, _said(said, "refused"), *(update for row in rows for update in row.filled(None, above))]

        def show(found: Result | None, above: float) -> list:
            return [update for row in rows for update in row.at(found, above)]

        asked = {
            "fn": find,
            "inputs": [image, text, threshold],
            "concurrency_id": "model",
            "concurrency_limit": 1,
            "outputs": [result, message, *(part for row in rows for part in row.parts)],
        }
        gr.on([button.click, text.submit], **asked, api_name="find")
        shelf.click(
            lambda number: (ready[number]["image"], "\n".join(ready[number]["expressions"])),
            shelf,
            [image, text],
            api_visibility="private",
        ).then(**asked, api_visibility="private")
        threshold.change(
            show,
            [result, threshold],
            [part for row in rows for part in row.changing],
            js=_IN_RANGE,
            trigger_mode="always_last",
            show_progress="hidden",
            concurrency_limit=2,
            api_name="show",
        )
        for row in rows:
            row.explain_on_demand(result, threshold)
    return page.queue(max_size=_WAITING)


def examples() -> list[dict]:
    """What ships: ``image``, the path of a file, and ``expressions`` for it."""
    ready = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))
    return [{**each, "image": str(EXAMPLES / each["image"])} for each in ready]


def _leave_unopened(image: gr.Image) -> None:
    """Hands on an upload as it is. Gradio would open it, and fetch it where a request names an address."""

    keep = image.async_move_resource_to_block_cache

    async def keep_file(path: str | None) -> str | None:
        if path is not None and "://" in path:
            raise gr.Error("Send the image itself, not its address.")
        return await keep(path)

    image.preprocess = lambda sent: sent.path if sent else None
    image.async_move_resource_to_block_cache = keep_file


def _answered(engine: Engine, found: Result, seconds: float) -> str:
    running = sum(answer.seconds for answer in found.answers)
    count = len(found.answers)
    return _said(f"{count} expression{'s' * (count > 1)} in {seconds:.2f} s, {running:.2f} s of it in {engine.name}")


def _said(line: str, kind: str = "") -> str:
    return f'<div class="said {kind}">{html.escape(" ".join(line.split()))}</div>'
