"""The model as a picture (paper, Fig. 2), with the shapes that its tensors have."""

from __future__ import annotations

import os

from coupalign.config import Config
from coupalign.files import atomic_path
from coupalign.visual.page import SERIES
from coupalign.visual.shapes import Shapes
from coupalign.visual.sheet import Sheet

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
    sheet = Sheet(shapes)
    _inputs(sheet)
    for i, tap in enumerate(_TAPS, 1):
        _stage(sheet, config, i, tap)
        _head(sheet, i, tap)
    _behind(sheet, config)
    with atomic_path(path) as temporary:
        sheet.save(temporary)


def _inputs(sheet: Sheet) -> None:
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


def _stage(sheet: Sheet, config: Config, i: int, tap: float) -> None:
    """Stage i of both encoders, and the alignment before it, if there is one."""
    before = _LEFT + 42 if i == 1 else _TAPS[i - 2] + _STAGE + _STAGE_WIDTH / 2
    middle, into = tap + _STAGE, tap + _STAGE - _STAGE_WIDTH / 2
    layers = config.model.bert_num_layers // 4
    last = layers * i
    sheet.box(
        middle, _IMAGE, _STAGE_WIDTH, 46, [f"Swin stage {i}", _several(config.model.swin_depths[i - 1], "block")], _BLUE
    )
    sheet.box(
        middle,
        _TEXT,
        _STAGE_WIDTH,
        46,
        ["BERT", f"layer{'s' * (layers > 1)} {'-'.join(map(str, sorted({last - layers + 1, last})))}"],
        _GREEN,
    )
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
    sheet.box(
        tap + 69,
        _ALIGN,
        168,
        48,
        ["words ↔ pixels" if both else "words → pixels"],
        _PURPLE,
        shown=("Attn", f"over_words_{i}"),
    )
    sheet.arrow((tap, _IMAGE), (tap, _ALIGN - 24), colour=_PURPLE)
    sheet.arrow((tap, _TEXT), (tap, _ALIGN + 24), colour=_PURPLE)
    sheet.dot(tap, _TEXT)
    for row, up in ((_GATE, True), (_WORD_GATE, False))[: 1 + both]:
        sign = -1 if up else 1
        sheet.arrow((tap + _SUM, _ALIGN + sign * 24), (tap + _SUM, row - sign * 10), colour=_PURPLE)
        sheet.box(tap + _SUM, row, 50, 20, ["gate"], _ORANGE)
        sheet.arrow((tap + _SUM, row + sign * 10), (tap + _SUM, (_IMAGE if up else _TEXT) - sign * 8), colour=_PURPLE)


def _head(sheet: Sheet, i: int, tap: float) -> None:
    """Y_i, from what is right of it and V_i below it."""
    sheet.box(tap + 22, _HEAD, 96, 46, [f"Up(ρ($Y_{i + 1}$))" if i < 4 else "ρ($Y_5$)", f"+ γ($V_{i}$)"], _RED)
    sheet.arrow((tap, _IMAGE), (tap, _HEAD + 23), colour=_RED)
    sheet.dot(tap, _IMAGE)
    if i < 4:
        sheet.arrow((_TAPS[i] + 22 - 48, _HEAD), (tap + 22 + 48, _HEAD), colour=_RED)
        sheet.label((_TAPS[i] + tap) / 2 + 22, _HEAD - 30, f"Y_{i + 1}")


def _behind(sheet: Sheet, config: Config) -> None:
    """All that follows the last stage: cross attention, mask generator, alignment with the sentence."""
    end = _TAPS[3] + _STAGE + _STAGE_WIDTH / 2
    sheet.box(
        _CROSS, _ALIGN, 116, 66, ["cross attention", "over image and", "words, Eq 7, 8"], _GREEN, "cross_attention"
    )
    sheet.arrow((end, _IMAGE), (_CROSS - 34, _IMAGE), (_CROSS - 34, _ALIGN - 33))
    sheet.label(_CROSS - 72, _IMAGE - 32, "V_o")
    sheet.arrow((end, _TEXT), (_CROSS, _TEXT), (_CROSS, _ALIGN + 33))
    sheet.label(_CROSS - 62, _TEXT + 14, "L_o")
    sheet.arrow((_CROSS + 34, _ALIGN - 33), (_CROSS + 34, _HEAD), (_TAPS[3] + 22 + 48, _HEAD), colour=_RED)
    sheet.label(_CROSS - 62, _HEAD - 30, "Y_5")
    sheet.label(_CROSS + 42, 362, "S_o", align="left")
    sheet.arrow((_TAPS[0] + 22, _HEAD - 23), (_TAPS[0] + 22, 32), (_RIGHT, 32), (_RIGHT, 188), colour=_RED)
    sheet.label(_RIGHT - 8, 58, "Y_1", align="right")
    if config.model.sma:
        sheet.box(_RIGHT, 230, 148, 84, ["Sentence-Mask", "Alignment, Eq 11, 12"], _PURPLE, "sma", ("$Q_w$", "Q_w"))
        layers = _several(config.model.decoder_layers, "layer")
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


def _several(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number > 1)}"
