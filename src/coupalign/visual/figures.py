"""What all pictures share: fonts, colours, scaled images, heat maps, and figures as pixels or PNG files."""

from __future__ import annotations

import base64
import logging
import os
import textwrap
import unicodedata
import warnings
from collections.abc import Mapping, Sequence

import cv2
import matplotlib
import numpy as np
from jinja2 import Environment, PackageLoader
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

from coupalign.files import atomic_path, write_text
from coupalign.overlay import spotlight

INK, MUTED, GROUND = "#1f2933", "#66727f", "#f4f6f8"
SERIES = ("#2f6690", "#e08e45", "#4f9d69", "#8c5e9e", "#c2514b", "#7a7f86")
COLOURS = matplotlib.colormaps["OrRd"]
DPI = 100
_SHADE = 0.3  # how much the image darkens a heat map, whose colours must stay those of the scale
_FONT = "DejaVu Sans"  # comes with matplotlib
# Fonts of matplotlib that are no text fonts; "Last Resort" draws a box for every character.
_NO_TEXT_FONTS = ("Last Resort", "STIX", "cm")

_log = logging.getLogger(__name__)
templates = Environment(loader=PackageLoader("coupalign.visual"), autoescape=True, trim_blocks=True, lstrip_blocks=True)


def new_figure(width: int, height: float) -> Figure:
    """An empty figure of `width` x `height` pixels that lays itself out."""
    layout = ConstrainedLayoutEngine(w_pad=0.16, h_pad=0.1)
    figure = Figure((width / DPI, height / DPI), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def heading(part, title: str, about: Sequence[str] = (), characters: int = 165) -> None:
    """Gives a figure or subfigure a bold title and, below its content, a caption of small wrapped paragraphs."""
    part.suptitle(title, x=0.01, ha="left", size=14, weight="bold", color=INK)
    if about:
        caption = "\n".join(wrapped(paragraph, characters) for paragraph in about)
        part.supxlabel(caption, x=0.01, ha="left", size=9, color=MUTED)


def wrapped(text: str, width: int, lines: int | None = None) -> str:
    """`text` in lines of about `width` characters of average width; text beyond `lines` becomes an ellipsis."""
    text = " ".join(text.split())
    wide = sum(unicodedata.east_asian_width(each) in "WF" or each in "MWmw@%" for each in text)
    width = max(int(width * len(text) / (len(text) + wide)) if text else width, 1)
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder="…"))


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
    """A drawn figure, (H, W, 3) uint8, RGB. Characters that no installed font has are logged in one line."""
    texts = figure.findobj(Text)
    families = font_families("".join(text.get_text() for text in texts))
    for text in texts:
        text.set(fontfamily=families, parse_math=False)
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it reports fonts without a bold face
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # font_families reports these
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Writes a figure as PNG, atomically."""
    png = cv2.imencode(".png", pixels(figure)[..., ::-1])[1].tobytes()
    with atomic_path(path) as temporary:
        temporary.write_bytes(png)


def font_families(text: str) -> list[str]:
    """Installed font families that together have the characters of `text`, in matplotlib's order of fallback."""
    families = [_FONT]
    missing = {each for each in text if not each.isspace() and unicodedata.category(each) != "Cf"}
    missing -= _characters(fontManager.findfont(_FONT))
    # Sorted so that the regular font of a family comes first and represents it.
    fonts = sorted(fontManager.ttflist, key=lambda each: (each.style != "normal", each.weight != 400, each.name))
    for font in fonts:
        if missing and font.name not in families and not font.name.startswith(_NO_TEXT_FONTS):
            found = missing & _characters(font.fname)
            families += [font.name] * bool(found)
            missing -= found
    if missing:
        shown = "".join(sorted(missing)[:10]) + "…" * (len(missing) > 10)
        _log.warning(
            "no installed font has the characters %s: boxes replace them; install one such as Noto Sans", shown
        )
    return families


def _characters(path: str) -> set[str]:
    try:
        return set(map(chr, get_font(path).get_charmap()))
    except (OSError, RuntimeError):  # an installed font that FreeType cannot read
        return set()


def jpeg_uri(rgb: np.ndarray, side: int) -> str:
    """An image (H, W, 3) uint8 as the address of an HTML image, its longer side `side` pixels."""
    bgr = fitted(rgb, side, side)[..., ::-1]
    jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def write_page(path: str | os.PathLike, template: str, values: Mapping) -> None:
    """Writes an HTML page from a template of this package, atomically. Values are escaped."""
    page = templates.get_template(template).render(values)
    write_text(path, page)
