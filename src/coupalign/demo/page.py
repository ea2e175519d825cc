"""The page: its components and events."""

from __future__ import annotations

import html
import json
import logging
import time

import cv2
import gradio as gr
import numpy as np
from gradio.processing_utils import save_bytes_to_cache

from coupalign.demo.engines import LiteEngine, MindSporeEngine
from coupalign.demo.requests import Result, ask
from coupalign.files import REPOSITORY
from coupalign.inference.uploads import MAX_EXPRESSIONS, MAX_MEGABYTES, Refused

EXAMPLES = REPOSITORY / "assets/examples"
CSS = """
.gradio-container {max-width: 1180px !important; margin: 0 auto !important}
.message {padding: 8px 12px; overflow-wrap: anywhere}
.refused {background: #fdecea; color: #8c1d18}
.mask img, .probability img {max-height: 65vh}
"""
_KEPT_SECONDS = 3600  # of uploads, pictures and results
_TITLE = "CoupAlign: the mask of what a sentence names"
_THRESHOLDS = 0.01, 0.99
# While 0.2 is typed, the field is empty and then 0. Both would be refused, and the 0.2 after them would be lost.
_CLAMP = "(found, threshold) => [found, Math.min(Math.max(threshold, {}), {})]".format(*_THRESHOLDS)
_QUEUE = 50
_FAILED = "The server could not answer this; the reason is in its log."
_PICTURE = {"format": "png", "interactive": False, "buttons": ["fullscreen"], "min_width": 280}

_log = logging.getLogger(__name__)


class Row:
    """The part of the page for expression `number` of a request, hidden until there is an answer."""

    def __init__(self, number: int, explains: bool):
        self._number = number
        with gr.Column(visible=False, elem_id=f"row-{number}") as box:
            heading = gr.HTML(elem_classes="heading")
            with gr.Row():
                mask = gr.Image(label="mask", elem_classes="mask", **_PICTURE)
                heat = gr.Image(label="probability, white 0 to red 1", elem_classes="probability", **_PICTURE)
            title = "Download the mask (PNG, at the image's own size)"
            self._download = gr.DownloadButton(title, size="sm", elem_classes="download")
            title = "How it was made: attention, gates, weighted masks"
            with gr.Accordion(title, open=False, visible=explains, elem_classes="alignment") as self._accordion:
                self._alignment = gr.Image(show_label=False, **_PICTURE)
        self.changing = [heading, mask, self._download]  # components that depend on the threshold
        self.parts = [box, heat, self._accordion, self._alignment, *self.changing]

    def fill(self, found: Result | None, threshold: float) -> list:
        """Values of `parts`."""
        if not self._answered(found):
            return [gr.update(visible=False), None, gr.update(open=False), None, "", None, None]
        heat = found.heat(self._number)
        return [gr.update(visible=True), heat, gr.update(open=False), None, *self.change(found, threshold)]

    def change(self, found: Result | None, threshold: float) -> list:
        """Values of `changing`."""
        if not self._answered(found):
            return [gr.skip()] * len(self.changing)
        mask, answer = found.mask(self._number, threshold), found.answers[self._number]
        png = cv2.imencode(".png", mask.astype(np.uint8) * 255)[1].tobytes()
        file = save_bytes_to_cache(png, found.mask_name(self._number), self._download.GRADIO_CACHE)
        share = "" if answer.nothing_fits else f"{mask.mean():.1%} of the image, "
        about = [f"{share}model {answer.seconds:.2f} s", *answer.warnings]
        heading = f"<b>{html.escape(found.expressions[self._number])}</b><br>{'<br>'.join(map(html.escape, about))}"
        return [heading, found.spotlight(self._number, threshold), file]

    def explain_on_demand(self, result: gr.State, threshold: gr.Slider) -> None:
        """Draws the alignment picture when its section is opened; it takes longer than the model."""

        def draw(found: Result | None, at: float):
            return found.alignment(self._number, at) if self._answered(found) else None

        queue = {"concurrency_id": "drawing", "concurrency_limit": 1, "api_name": f"explain_{self._number + 1}"}
        self._accordion.expand(draw, [result, threshold], self._alignment, **queue)

    def _answered(self, found: Result | None) -> bool:
        return found is not None and self._number < len(found.answers)


def build_page(engine: MindSporeEngine | LiteEngine) -> gr.Blocks:
    """The page of a loaded model, to be launched with ``CSS``."""
    listed = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))
    examples = [(EXAMPLES / each["image"], "\n".join(each["expressions"])) for each in listed]
    with gr.Blocks(title=_TITLE, analytics_enabled=False, delete_cache=(600, _KEPT_SECONDS)) as page:
        gr.Markdown(f"# {_TITLE}")
        with gr.Row():
            with gr.Column(min_width=300):
                label = f"Image (JPEG or PNG, up to {MAX_MEGABYTES} MB)"
                options = {"type": "filepath", "sources": ["upload", "clipboard"], "buttons": []}
                image = gr.Image(label=label, height=330, elem_id="image", **options)
                _pass_on_unread(image)
            with gr.Column(min_width=300):
                hint = {"label": "Expressions, one per line", "placeholder": "the left cup\nman in the red shirt"}
                text = gr.Textbox(lines=3, max_lines=MAX_EXPRESSIONS, elem_id="text", **hint)
                button = gr.Button("Find", variant="primary", elem_id="find")
                label, samples = "Or try an example (RefShapes, synthetic)", [[str(path)] for path, _ in examples]
                options = {"components": ["image"], "type": "index", "layout": "gallery"}
                shelf = gr.Dataset(samples=samples, label=label, elem_id="examples", **options)
        message = gr.HTML(_message("Choose an image and say what to find in it."), elem_id="message")
        label = "Threshold: pixels of a higher probability belong to the mask"
        threshold = gr.Slider(*_THRESHOLDS, engine.threshold, step=0.01, elem_id="threshold", label=label)
        rows = [Row(number, engine.explains) for number in range(MAX_EXPRESSIONS)]
        result = gr.State(None, time_to_live=_KEPT_SECONDS)

        def find(path: str | None, lines: str, at: float) -> list:
            start, found = time.perf_counter(), None
            try:
                found = ask(engine, path, lines)
                count, running = len(found.answers), sum(answer.seconds for answer in found.answers)
                seconds = f"{time.perf_counter() - start:.2f} s, {running:.2f} s of it in {engine.name}"
                said = _message(f"{count} expression{'s' * (count > 1)} in {seconds}")
            except Refused as error:
                said = _message(str(error), "refused")
            except Exception:  # its message may name files of the server
                _log.exception("a request failed")
                said = _message(_FAILED, "refused")
            return [found, said, *(update for row in rows for update in row.fill(found, at))]

        def show(found: Result | None, at: float) -> list:
            return [update for row in rows for update in row.change(found, at)]

        def take(number: int) -> tuple[str, str]:
            return str(examples[number][0]), examples[number][1]

        finding = {
            "fn": find,
            "inputs": [image, text, threshold],
            "outputs": [result, message, *(part for row in rows for part in row.parts)],
            "concurrency_id": "model",
            "concurrency_limit": 1,
        }
        gr.on([button.click, text.submit], **finding, api_name="find")
        taken = shelf.click(take, shelf, [image, text], api_visibility="private")
        taken.then(**finding, api_visibility="private")
        changing = [part for row in rows for part in row.changing]
        quietly = {"trigger_mode": "always_last", "show_progress": "hidden", "concurrency_limit": 2}
        threshold.change(show, [result, threshold], changing, js=_CLAMP, api_name="show", **quietly)
        for row in rows:
            row.explain_on_demand(result, threshold)
    return page.queue(max_size=_QUEUE)


def _pass_on_unread(image: gr.Image) -> None:
    """Makes an image box pass on the uploaded file as it is, so that only `read_upload` decodes it.

    A subclass would do the same, but Gradio writes a .pyi file beside the module of every subclass.
    """
    keep = image.async_move_resource_to_block_cache

    async def keep_file(path: str | None) -> str | None:
        if path is not None and "://" in path:  # Gradio would fetch it, whatever its size
            raise gr.Error("Send the image itself, not its address.")
        return await keep(path)

    image.preprocess = lambda payload: payload.path if payload else None
    image.async_move_resource_to_block_cache = keep_file


def _message(line: str, kind: str = "") -> str:
    return f'<div class="message {kind}">{html.escape(" ".join(line.split()))}</div>'
