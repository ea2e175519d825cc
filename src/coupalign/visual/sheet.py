"""A sheet of boxes and arrows, on which tensors' shapes are written."""

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

from coupalign.visual.page import INK, MUTED
from coupalign.visual.shapes import Shapes

_WIDTH, _HEIGHT = 1370, 692  # of the drawing, in points, of which the picture has twice as many pixels


class Sheet:
    """A sheet to draw on; places are points from the upper left corner, boxes are given by their middles."""

    def __init__(self, shapes: Shapes):
        self.shapes = shapes
        self._figure = Figure((_WIDTH / 72, _HEIGHT / 72), dpi=144)
        self._axes = self._figure.add_axes((0, 0, 1, 1))
        self._axes.set(xlim=(0, _WIDTH), ylim=(_HEIGHT, 0))
        self._axes.axis("off")
        self.text(
            _WIDTH - 24,
            _HEIGHT - 18,
            "Shapes as the code has them, but for the batch. "
            f"{_millions(sum(shapes.parameters.values()))} trainable parameters",
            MUTED,
            align="right",
        )

    def text(
        self,
        x: float,
        y: float,
        text: str,
        colour: str = INK,
        size: float = 10.5,
        bold: bool = False,
        align: str = "center",
    ) -> None:
        self._axes.text(
            x, y, text, color=colour, size=size, weight="bold" if bold else "normal", ha=align, va="center_baseline"
        )

    def label(self, x: float, y: float, name: str, tensor: str = "", align: str = "center") -> None:
        """A tensor's name with its shape below it."""
        self.text(x, y, name if tensor else f"${name}$", size=12 if not tensor else 10.5, align=align)
        self.text(x, y + 15, self._shape(tensor or name), MUTED, size=9.5, align=align)

    def title(self, x: float, y: float, lines: Sequence[str], part: str, colour: str) -> None:
        if part not in self.shapes.parameters:
            return
        for place, line in enumerate([*lines, self._count(part)]):
            self.text(x, y + 15 * (place - len(lines) / 2), line, colour, bold=place < len(lines))

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        lines: Sequence[str],
        colour: str,
        part: str = "",
        shown: tuple[str, str] | None = None,
    ) -> None:
        """A box with lines of text, and below them the shape of what it holds, by symbol and name, and its size."""
        corner = x - width / 2 + 4, y - height / 2 + 4
        self._axes.add_patch(
            FancyBboxPatch(
                corner,
                width - 8,
                height - 8,
                boxstyle="round,pad=4",
                zorder=3,
                facecolor=_pale(colour),
                edgecolor=colour,
            )
        )
        small = [f"{shown[0]} {self._shape(shown[1])}"] if shown else []
        small += [self._count(part)] if part else []
        for place, line in enumerate([*lines, *small]):
            quiet = place >= len(lines)
            self.text(
                x,
                y + 15 * (place - (len(lines) + len(small) - 1) / 2),
                line,
                MUTED if quiet else INK,
                9.5 if quiet else 10.5,
            )

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


def _pale(colour: str) -> tuple[float, ...]:
    return tuple(1 - (1 - int(colour[i : i + 2], 16) / 255) * 0.14 for i in (1, 3, 5))
