"""The model as a picture (paper, Fig. 2), with the shapes that its tensors have."""
from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo

from src.config import Config
from src.files import atomic_path
from src.visual.page import INK, MUTED, SERIES
from src.visual.shapes import Shapes

_WIDTH, _HEIGHT = 1370, 692  # of the drawing, in points, of which the picture has twice as many pixels
_HEAD, _IMAGE, _GATE, _ALIGN, _WORD_GATE, _TEXT = 112, 307, 374, 440, 506, 573  # how far down the rows are
_LEFT = 66  # the middle of what stands before the stages
_TAPS = (170, 358, 546, 734)  # where V_i and L_i are tapped, and the stage's column begins
_SUM, _STAGE, _STAGE_WIDTH = 46, 115, 94  # from there to where sums stand, and to the middle of the stage's boxes
_CROSS, _RIGHT, _OUT, _SENTENCE = 1000, 1150, 1306, 1246  # middles of the columns behind the stages
_BLUE, _ORANGE, _GREEN, _PURPLE, _RED, _ = SERIES


def draw_architecture(config: Config, shapes: Shapes, path: str | os.PathLike) -> None:
    """Writes the picture as PNG, atomically. Its text field ``shapes`` holds the shapes, as JSON.

    Args:
        shapes: of the model of `config`.
    """
    sheet = _Sheet(shapes)
    _inputs(sheet)
    for i, tap in enumerate(_TAPS, 1):
        _stage(sheet, config, i, tap)
        _head(sheet, i, tap)
    _behind(sheet, config)
    with atomic_path(path) as temporary:
        sheet.save(temporary)


def _inputs(sheet: _Sheet) -> None:
    sheet.box(_LEFT, _IMAGE, 84, 46, ["patches 4 × 4", "linear, norm"], _BLUE)
    sheet.arrow((_LEFT, 355), (_LEFT, _IMAGE + 23))
    sheet.label(_LEFT, 366, "image", "image")
    sheet.box(_LEFT, _TEXT, 84, 46, ["word pieces", "→ vectors"], _GREEN)
    sheet.arrow((_LEFT, 527), (_LEFT, _TEXT - 23))
    sheet.label(_LEFT, 498, "expression", "token_ids")
    sheet.title(_LEFT, _HEAD, ["Segmentation", "head, Eq 10"], "seg_head", _RED)
    sheet.title(_LEFT, 244, ["Image encoder", "Eq 3"], "image_encoder", _BLUE)
    sheet.title(_LEFT, _ALIGN, ["Word-Pixel", "Alignment, Eq 1-6"], "wpa", _PURPLE)
    sheet.title(_LEFT, 634, ["Text encoder", "Eq 3"], "text_encoder", _GREEN)


def _stage(sheet: _Sheet, config: Config, i: int, tap: float) -> None:
    """Stage i of both encoders, and the alignment before it, if there is one."""
    before = _LEFT + 42 if i == 1 else _TAPS[i - 2] + _STAGE + _STAGE_WIDTH / 2
    middle, into = tap + _STAGE, tap + _STAGE - _STAGE_WIDTH / 2
    layers = config.bert_num_layers // 4
    last = layers * i
    sheet.box(middle, _IMAGE, _STAGE_WIDTH, 46, [f"Swin stage {i}", _several(config.swin_depths[i - 1], "block")],
              _BLUE)
    sheet.box(middle, _TEXT, _STAGE_WIDTH, 46,
              ["BERT", f"layer{'s' * (layers > 1)} {'-'.join(map(str, sorted({last - layers + 1, last})))}"], _GREEN)
    sheet.label(tap + 6, _IMAGE - 50, f"V_{i}", align="left")
    sheet.label(tap + 6, _TEXT + 34, f"L_{i}", align="left")
    aligned = f"over_words_{i}" in sheet.shapes.tensors
    both = f"over_pixels_{i}" in sheet.shapes.tensors
    for row, summed in ((_IMAGE, aligned), (_TEXT, both)):
        if summed:
            sheet.plus(tap + _SUM, row)
            sheet.arrow((before, row), (tap + _SUM - 8, row))
            sheet.arrow((tap + _SUM + 8, row), (into, row))
        else:
            sheet.arrow((before, row), (into, row))
    if not aligned:
        return
    sheet.box(tap + 69, _ALIGN, 168, 48, ["words ↔ pixels" if both else "words → pixels"], _PURPLE,
              shown=("Attn", f"over_words_{i}"))
    sheet.arrow((tap, _IMAGE), (tap, _ALIGN - 24), colour=_PURPLE)
    sheet.arrow((tap, _TEXT), (tap, _ALIGN + 24), colour=_PURPLE)
    sheet.dot(tap, _TEXT)
    for row, up in ((_GATE, True), (_WORD_GATE, False))[:1 + both]:
        sign = -1 if up else 1
        sheet.arrow((tap + _SUM, _ALIGN + sign * 24), (tap + _SUM, row - sign * 10), colour=_PURPLE)
        sheet.box(tap + _SUM, row, 50, 20, ["gate"], _ORANGE)
        sheet.arrow((tap + _SUM, row + sign * 10), (tap + _SUM, (_IMAGE if up else _TEXT) - sign * 8), colour=_PURPLE)


def _head(sheet: _Sheet, i: int, tap: float) -> None:
    """Y_i, from what is right of it and V_i below it."""
    sheet.box(tap + 22, _HEAD, 96, 46, [f"Up(ρ($Y_{i + 1}$))" if i < 4 else "ρ($Y_5$)", f"+ γ($V_{i}$)"], _RED)
    sheet.arrow((tap, _IMAGE), (tap, _HEAD + 23), colour=_RED)
    sheet.dot(tap, _IMAGE)
    if i < 4:
        sheet.arrow((_TAPS[i] + 22 - 48, _HEAD), (tap + 22 + 48, _HEAD), colour=_RED)
        sheet.label((_TAPS[i] + tap) / 2 + 22, _HEAD - 30, f"Y_{i + 1}")


def _behind(sheet: _Sheet, config: Config) -> None:
    """All that follows the last stage: cross attention, mask generator, alignment with the sentence."""
    end = _TAPS[3] + _STAGE + _STAGE_WIDTH / 2
    sheet.box(_CROSS, _ALIGN, 116, 66, ["cross attention", "over image and", "words, Eq 7, 8"], _GREEN,
              "cross_attention")
    sheet.arrow((end, _IMAGE), (_CROSS - 34, _IMAGE), (_CROSS - 34, _ALIGN - 33))
    sheet.label(_CROSS - 72, _IMAGE - 32, "V_o")
    sheet.arrow((end, _TEXT), (_CROSS, _TEXT), (_CROSS, _ALIGN + 33))
    sheet.label(_CROSS - 62, _TEXT + 14, "L_o")
    sheet.arrow((_CROSS + 34, _ALIGN - 33), (_CROSS + 34, _HEAD), (_TAPS[3] + 22 + 48, _HEAD), colour=_RED)
    sheet.label(_CROSS - 62, _HEAD - 30, "Y_5")
    sheet.label(_CROSS + 42, 362, "S_o", align="left")
    sheet.arrow((_TAPS[0] + 22, _HEAD - 23), (_TAPS[0] + 22, 32), (_RIGHT, 32), (_RIGHT, 188), colour=_RED)
    sheet.label(_RIGHT - 8, 58, "Y_1", align="right")
    if config.sma:
        sheet.box(_RIGHT, 230, 148, 84, ["Sentence-Mask", "Alignment, Eq 11, 12"], _PURPLE, "sma", ("$Q_w$", "Q_w"))
        layers = _several(config.decoder_layers, "layer")
        sheet.box(_RIGHT, _ALIGN, 116, 66, ["mask generator", f"{layers}, Eq 9"], _BLUE, "mask_generator")
        sheet.arrow((_RIGHT, 508), (_RIGHT, _ALIGN + 33))
        sheet.label(_RIGHT, 520, "learnt queries", "Q")
        sheet.arrow((_CROSS + 58, _ALIGN), (_RIGHT - 58, _ALIGN))
        sheet.arrow((_RIGHT, _ALIGN - 33), (_RIGHT, 272))
        sheet.label(_RIGHT + 8, 324, "Q_o", align="left")
        sheet.arrow((_CROSS, _TEXT), (_SENTENCE, _TEXT), (_SENTENCE, 250), (_RIGHT + 74, 250), colour=_GREEN)
        sheet.dot(_CROSS, _TEXT)
        sheet.label(_SENTENCE - 8, _TEXT + 14, "L_g", align="right")
    else:
        sheet.box(_RIGHT, 210, 148, 50, ["1 × 1 convolution"], _PURPLE, "mask_proj")
    sheet.arrow((_RIGHT + 74, 210), (_OUT - 42, 210))
    sheet.label((_RIGHT + _OUT) / 2 + 14, 158, "M")
    sheet.box(_OUT, 210, 84, 46, ["bilinear", "4 ×"], _RED)
    sheet.arrow((_OUT, 187), (_OUT, 144))
    sheet.label(_OUT, 108, "mask logits", "logits")


class _Sheet:
    """A sheet to draw on; places are points from the upper left corner, boxes are given by their middles."""

    def __init__(self, shapes: Shapes):
        self.shapes = shapes
        self._figure = Figure((_WIDTH / 72, _HEIGHT / 72), dpi=144)
        self._axes = self._figure.add_axes((0, 0, 1, 1))
        self._axes.set(xlim=(0, _WIDTH), ylim=(_HEIGHT, 0))
        self._axes.axis("off")
        self.text(_WIDTH - 24, _HEIGHT - 18, "Shapes as the code has them, but for the batch. "
                  f"{_millions(sum(shapes.parameters.values()))} trainable parameters", MUTED, align="right")

    def text(self, x: float, y: float, text: str, colour: str = INK, size: float = 10.5, bold: bool = False,
             align: str = "center") -> None:
        self._axes.text(x, y, text, color=colour, size=size, weight="bold" if bold else "normal", ha=align,
                        va="center_baseline")

    def label(self, x: float, y: float, name: str, tensor: str = "", align: str = "center") -> None:
        """A tensor's name with its shape below it."""
        self.text(x, y, name if tensor else f"${name}$", size=12 if not tensor else 10.5, align=align)
        self.text(x, y + 15, self._shape(tensor or name), MUTED, size=9.5, align=align)

    def title(self, x: float, y: float, lines: Sequence[str], part: str, colour: str) -> None:
        if part not in self.shapes.parameters:
            return
        for place, line in enumerate([*lines, self._count(part)]):
            self.text(x, y + 15 * (place - len(lines) / 2), line, colour, bold=place < len(lines))

    def box(self, x: float, y: float, width: float, height: float, lines: Sequence[str], colour: str, part: str = "",
            shown: tuple[str, str] | None = None) -> None:
        """A box with lines of text, and below them the shape of what it holds, by symbol and name, and its size."""
        corner = x - width / 2 + 4, y - height / 2 + 4
        self._axes.add_patch(FancyBboxPatch(corner, width - 8, height - 8, boxstyle="round,pad=4", zorder=3,
                                            facecolor=_pale(colour), edgecolor=colour))
        small = [f"{shown[0]} {self._shape(shown[1])}"] if shown else []
        small += [self._count(part)] if part else []
        for place, line in enumerate([*lines, *small]):
            quiet = place >= len(lines)
            self.text(x, y + 15 * (place - (len(lines) + len(small) - 1) / 2), line, MUTED if quiet else INK,
                      9.5 if quiet else 10.5)

    def arrow(self, *points: tuple[float, float], colour: str = INK) -> None:
        """A line through all points, with a head at the last."""
        self._axes.plot(*zip(*points), color=colour, linewidth=1.2, zorder=2, solid_joinstyle="round")
        head = {"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0, "linewidth": 1.2}
        self._axes.annotate("", points[-1], points[-2], zorder=2, arrowprops=head)

    def plus(self, x: float, y: float) -> None:
        self._axes.add_patch(Circle((x, y), 8, facecolor="white", edgecolor=INK, zorder=3))
        self.text(x, y, "+", size=12)

    def dot(self, x: float, y: float) -> None:
        self._axes.add_patch(Circle((x, y), 2.5, color=INK, zorder=3))

    def save(self, path: str | os.PathLike) -> None:
        canvas = FigureCanvasAgg(self._figure)
        content = io.BytesIO()
        canvas.print_png(content)
        about = PngInfo()
        about.add_text("shapes", json.dumps(self.shapes.tensors))
        Pillow.open(content).convert("RGB").quantize(64).save(path, "PNG", optimize=True, pnginfo=about)

    def _shape(self, tensor: str) -> str:
        return " × ".join(map(str, self.shapes.tensors[tensor][1:]))

    def _count(self, part: str) -> str:
        return _millions(self.shapes.parameters[part])


def _millions(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e5 else f"{number:,}"


def _several(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number > 1)}"


def _pale(colour: str) -> tuple[float, ...]:
    return tuple(1 - (1 - int(colour[i:i + 2], 16) / 255) * 0.14 for i in (1, 3, 5))
