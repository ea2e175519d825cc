"""A page that is drawn from the top down, in pixels, and becomes a PNG."""

from __future__ import annotations

import os

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.transforms import Affine2D

from coupalign.overlay import spotlight, write_png

INK, MUTED, RULE, GROUND = "#1f2933", "#66727f", "#d9dfe5", "#f4f6f8"
SERIES = ("#2f6690", "#e08e45", "#4f9d69", "#8c5e9e", "#c2514b", "#7a7f86")
MARGIN = 32


class Page:
    """A white sheet of a fixed width that ends below whatever is drawn lowest.

    All places and sizes are pixels, counted from the upper left corner. What is drawn later covers what was before.

    Args:
        width: of the page.

    Attributes:
        y: where the next thing goes; kept by who draws.
    """

    def __init__(self, width: int):
        self.width = width
        self.y = float(MARGIN)
        self._lowest = 0.0
        self._figure = Figure(dpi=72)  # a point is then a pixel
        self._canvas = FigureCanvasAgg(self._figure)
        self._down = Affine2D()  # from here to matplotlib's pixels, which count upwards; known when the page is done
        self._pictures: list[tuple[np.ndarray, int, int, int]] = []
        self._drawn = 0

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float = 13,
        colour: str = INK,
        bold: bool = False,
        align: str = "left",
    ) -> None:
        """One line with its baseline at y; x is its left end, its centre or its right end."""
        self._figure.text(
            x,
            y,
            text,
            transform=self._down,
            fontproperties=_font(size, bold),
            color=colour,
            ha=align,
            va="baseline",
            parse_math=False,
            zorder=self._next(y + size / 4),
        )

    def text_width(self, text: str, size: float = 13, bold: bool = False) -> float:
        return self._canvas.get_renderer().get_text_width_height_descent(text, _font(size, bold), False)[0]

    def lines(self, text: str, width: float, size: float = 13, bold: bool = False, most: int = 1000) -> list[str]:
        """`text` in lines no wider than `width`, broken between words or, where one is too long, within; what does not
        fit into the `most` lines is cut, and ends in an ellipsis."""
        lines, rest = [], " ".join(text.split())
        while rest:
            fits = self._fitting(rest, width, size, bold)
            cut = fits if fits == len(rest) else rest.rfind(" ", 0, fits + 1)
            cut = fits if cut <= 0 else cut
            lines.append(rest[:cut])
            rest = rest[cut:].lstrip()
        if len(lines) > most:
            last = lines[most - 1] + " " + lines[most]
            fits = self._fitting(last, width - self.text_width("…", size, bold), size, bold)
            lines[most - 1 :] = [last[:fits].rstrip() + "…"]
        return lines

    def box(self, x: float, y: float, width: float, height: float, fill: str, edge: str | None = None) -> None:
        self._figure.add_artist(
            Rectangle(
                (x, y),
                width,
                height,
                transform=self._down,
                facecolor=fill,
                edgecolor=edge or "none",
                linewidth=1 if edge else 0,
                zorder=self._next(y + height),
            )
        )

    def picture(self, x: float, y: float, rgb: np.ndarray) -> None:
        """Pixels (H, W, 3) uint8, one to one, with their upper left corner at (x, y)."""
        self._pictures.append((rgb, round(x), round(y), self._next(round(y) + rgb.shape[0])))

    def heading(self, text: str, about: str = "") -> None:
        """A line across the page with a title below it, what it says of itself in a paragraph, and moves `y` on."""
        self.box(MARGIN, self.y, self.width - 2 * MARGIN, 1, RULE)
        self.y += 32
        self.text(MARGIN, self.y, text, 19, bold=True)
        self.y += 8
        self.paragraph(about)
        self.y += 12

    def paragraph(self, text: str) -> None:
        """Small lines across the page, and moves `y` on."""
        for line in self.lines(text, self.width - 2 * MARGIN):
            self.y += 18
            self.text(MARGIN, self.y, line, colour=MUTED)

    def pixels(self) -> np.ndarray:
        """The page (H, W, 3) uint8, RGB."""
        height = int(np.ceil(self._lowest)) + MARGIN
        self._figure.set_size_inches(self.width / 72, height / 72)
        self._down.clear().scale(1, -1).translate(0, height)
        for artist in list(self._figure.images):
            artist.remove()
        for rgb, x, y, order in self._pictures:
            self._figure.figimage(rgb, x, height - y - rgb.shape[0], zorder=order)
        self._canvas.draw()
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()

    def save(self, path: str | os.PathLike) -> None:
        """Writes the page as PNG, atomically."""
        write_png(path, self.pixels())

    def _next(self, bottom: float) -> int:
        """The place in the order of drawing of something that ends at `bottom`."""
        self._lowest = max(self._lowest, bottom)
        self._drawn += 1
        return self._drawn

    def _fitting(self, text: str, width: float, size: float, bold: bool) -> int:
        """How many characters from the first of `text` fit into `width`, one at least."""
        low, high = 1, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.text_width(text[:middle], size, bold) <= width else (low, middle - 1)
        return low


def fitted(picture: np.ndarray, width: float, height: float, mask: np.ndarray | None = None) -> np.ndarray:
    """A picture (H, W) or (H, W, 3) at the largest size that fits the box, its shape kept.

    Args:
        mask: bool, which the rest is made pale around; at the picture's size or at another, which is stretched to it.
    """
    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = (max(round(picture.shape[1] * scale), 1), max(round(picture.shape[0] * scale), 1))
    picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    if mask is None:
        return picture
    return spotlight(picture, cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0)


def _font(size: float, bold: bool) -> FontProperties:
    return FontProperties(family="DejaVu Sans", size=size, weight="bold" if bold else "normal")
