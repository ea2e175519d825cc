"""What all pictures share: fonts, colours, scaled images, heat maps, and figures as pixels or PNG files."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence

import cv2
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

from coupalign.overlay import spotlight, write_png

INK, MUTED = "#1f2933", "#66727f"
COLOURS = matplotlib.colormaps["OrRd"]
DPI = 100
_SHADE = 0.3  # how much the image darkens a heat map, whose colours must stay those of the scale
# The first comes with matplotlib; the others have Chinese, Japanese and Korean characters.
_FONTS = ["DejaVu Sans", *(name for name in fontManager.get_font_names() if name.startswith("Noto Sans CJK"))]


def new_figure(width: int, height: float) -> Figure:
    """An empty figure of `width` x `height` pixels that lays itself out."""
    layout = ConstrainedLayoutEngine(w_pad=0.16, h_pad=0.1)
    figure = Figure((width / DPI, height / DPI), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def heading(part, title: str, about: str = "") -> None:
    """Gives a figure or subfigure a bold title and, below its content, a small wrapped caption."""
    part.suptitle(title, x=0.01, ha="left", size=14, weight="bold", color=INK)
    if about:
        part.supxlabel(textwrap.fill(about, 165), x=0.01, ha="left", size=9, color=MUTED)


def wrapped(text: str, width: int, lines: int | None = None) -> str:
    """`text` in lines of `width` characters; text beyond `lines` becomes an ellipsis."""
    return textwrap.fill(text, width, max_lines=lines, placeholder="…")


def fitted(picture: np.ndarray, width: float, height: float, mask: np.ndarray | None = None) -> np.ndarray:
    """An image (H, W) or (H, W, 3) scaled to fit a box of `width` x `height` pixels, with its aspect ratio.

    No side is smaller than one pixel. With `mask`, bool of any size, the rest of the image is drawn pale.
    """
    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = (max(round(picture.shape[1] * scale), 1), max(round(picture.shape[0] * scale), 1))
    picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    if mask is None:
        return picture
    return spotlight(picture, cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0)


def heat(rgb: np.ndarray, values: np.ndarray, largest: float) -> np.ndarray:
    """A map (h, w) in colours from 0 to `largest`, its cells as squares, at the size of `rgb` (H, W, 3) uint8."""
    values = cv2.resize(values, rgb.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None] / 255
    colours = COLOURS(np.clip(values / largest, 0, 1))[..., :3] * 255
    return (colours * (1 - _SHADE + _SHADE * grey)).round().astype(np.uint8)


def add_scale(part, axes, label: str, **options) -> None:
    """Adds the colour scale of heat maps, from 0 to their largest value, beside `axes`."""
    scale = part.colorbar(ScalarMappable(Normalize(0, 1), COLOURS), ax=axes, **options)
    scale.set_ticks([0, 1], labels=["0", label])
    scale.outline.set_visible(False)


def mosaic(rows: Sequence[Sequence[np.ndarray]], gap: int, below: int = 0) -> tuple[np.ndarray, list[int], list[int]]:
    """Images of one size (h, w, 3) uint8, row by row on white, with `gap` pixels between and `below` pixels for labels.

    Returns: the picture, and the left and upper edges of its columns and rows.
    """
    height, width = rows[0][0].shape[:2]
    lefts = [column * (width + gap) for column in range(len(rows[0]))]
    tops = [row * (height + gap + below) for row in range(len(rows))]
    canvas = np.full((tops[-1] + height + below, lefts[-1] + width, 3), 255, np.uint8)
    for top, images in zip(tops, rows):
        for left, image in zip(lefts, images):
            canvas[top : top + height, left : left + width] = image
    return canvas, lefts, tops


def show(axes, picture: np.ndarray, title: str = "", **options) -> None:
    """Shows pixels without ticks or frame, the title at the upper left."""
    axes.imshow(picture, interpolation="antialiased")
    axes.set_title(title, loc="left", **{"size": 10, "color": INK, **options})
    axes.set(xticks=[], yticks=[], anchor="NW")
    axes.set_frame_on(False)
    axes.tick_params(length=0, labelsize=9, labelcolor=INK)


def pixels(figure: Figure) -> np.ndarray:
    """A drawn figure, (H, W, 3) uint8, RGB."""
    for text in figure.findobj(Text):
        text.set(fontfamily=_FONTS, parse_math=False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Writes a figure as PNG, atomically."""
    write_png(path, pixels(figure))
