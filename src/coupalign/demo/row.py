"""One expression's part of the page: its mask on the image and as a file, its probabilities, what they are made of."""

from __future__ import annotations

import html

import cv2
import gradio as gr
import matplotlib
import numpy as np
from gradio.processing_utils import save_bytes_to_cache

from coupalign.demo.results import Result
from coupalign.visual.heat import COLOURS

_RAMP = ", ".join(matplotlib.colors.to_hex(COLOURS(step / 8)) for step in range(9))
_LEGEND = f'<div class="legend">probability 0<i style="background: linear-gradient(to right, {_RAMP})"></i>1</div>'
_SHOWN = {"format": "png", "interactive": False, "buttons": ["fullscreen"]}
_PICTURE = {"min_width": 280, **_SHOWN}


class Row:
    """Hidden until there is an answer for it.

    Args:
        number: which of a request's expressions, from 0.
        explains: whether the model's answers say what they were made of.

    Attributes:
        parts: components that an answer fills.
        changing: those that depend on the threshold.
    """

    def __init__(self, number: int, explains: bool):
        self._number = number
        with gr.Column(visible=False, elem_id=f"row-{number}", elem_classes="answer") as self._box:
            self._heading = gr.HTML(padding=False)
            with gr.Row():
                self._mask = gr.Image(label="mask", elem_classes="mask", **_PICTURE)
                self._probability = gr.Image(label="probability", elem_classes="probability", **_PICTURE)
            gr.HTML(_LEGEND, padding=False)
            self._download = gr.DownloadButton(
                "Download the mask (PNG, at the image's own size)", size="sm", elem_classes="download"
            )
            with gr.Accordion(
                "What it was made of: attention, gates, weighed masks",
                open=False,
                visible=explains,
                elem_classes="alignment",
            ) as self._accordion:
                self._alignment = gr.Image(show_label=False, elem_classes="made-of", **_SHOWN)
        self.changing = [self._heading, self._mask, self._download]
        self.parts = [self._box, self._probability, self._accordion, self._alignment, *self.changing]

    def filled(self, found: Result | None, threshold: float) -> list:
        """Values of the parts."""
        if not self._has(found):
            return [gr.update(visible=False), None, gr.update(open=False), None, "", None, None]
        return [
            gr.update(visible=True),
            found.probability(self._number),
            gr.update(open=False),
            None,
            *self.at(found, threshold),
        ]

    def at(self, found: Result | None, threshold: float) -> list:
        """Values of what changes."""
        if not self._has(found):
            return [gr.skip()] * len(self.changing)
        mask = found.mask(self._number, threshold)
        png = cv2.imencode(".png", mask.astype(np.uint8) * 255)[1].tobytes()
        file = save_bytes_to_cache(png, found.mask_name(self._number), self._download.GRADIO_CACHE)
        about = f"{mask.mean():.1%} of the image, model {found.answers[self._number].seconds:.2f} s"
        heading = f"<b>{html.escape(found.expressions[self._number])}</b><span>{about}</span>"
        return [f'<div class="heading">{heading}</div>', found.spotlight(self._number, threshold), file]

    def explain_on_demand(self, result: gr.State, threshold: gr.Slider) -> None:
        """Draws the alignment when it is unfolded, which takes longer than the model."""

        def draw(found: Result | None, above: float):
            return found.alignment(self._number, above) if self._has(found) else None

        self._accordion.expand(
            draw,
            [result, threshold],
            self._alignment,
            concurrency_id="drawing",
            concurrency_limit=1,
            api_name=f"explain_{self._number + 1}",
        )

    def _has(self, found: Result | None) -> bool:
        return found is not None and self._number < len(found.answers)
