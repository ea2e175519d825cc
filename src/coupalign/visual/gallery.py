"""Cases of an evaluation as a picture, as the paper's Figure 3 shows them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from coupalign.visual.cases import Case
from coupalign.visual.page import GROUND, MARGIN, MUTED, Page, fitted
from coupalign.visual.results import Evaluation

ABOUT = {
    "best": "The expressions with the highest IoU, no image twice.",
    "median": "The expressions around the median IoU, no image twice.",
    "worst": "The expressions with the lowest IoU, those with more wrong pixels first where it is equal, no image twice.",
}
_WIDTH = 1240
_SIDE, _GAP, _BETWEEN = 180, 14, 40  # of a picture; between a case's pictures; between cases
_CASE = 3 * _SIDE + 2 * _GAP


def case_pictures(case: Case, side: float) -> list[tuple[str, np.ndarray]]:
    """Image, target and prediction with their names, RGB uint8, as large as fits a square of `side` pixels."""
    return [
        ("image", fitted(case.image, side, side)),
        ("target", fitted(case.image, side, side, case.target)),
        ("prediction", fitted(case.image, side, side, case.prediction)),
    ]


def headline(evaluation: Evaluation) -> str:
    """What was evaluated, in a line."""
    return f"{evaluation.title}: cases of {evaluation.content['samples']:,} expressions"


def summary(evaluation: Evaluation) -> str:
    """Figures of the whole evaluation, protocol and checkpoint."""
    metrics = evaluation.content["metrics"]
    figures = ", ".join(f"{name} {100 * metrics[name]:.2f} %" for name in ("oIoU", "mIoU", "prec@0.5"))
    return (
        f"All {evaluation.content['samples']:,}: {figures}; {evaluation.content['protocol']}. Checkpoint "
        f"{evaluation.content['checkpoint']['sha256'][:12]}."
    )


def draw_gallery(evaluation: Evaluation, cases: Sequence[Case]) -> Page:
    """All cases on a page, group by group."""
    page = Page(_WIDTH)
    for line in page.lines(headline(evaluation), _WIDTH - 2 * MARGIN, 24, bold=True):
        page.y += 30
        page.text(MARGIN, page.y, line, 24, bold=True)
    page.y += 6
    page.paragraph(summary(evaluation))
    page.y += 20
    for group, members in groupby(cases, key=lambda case: case.group):
        page.heading(group.capitalize(), ABOUT[group])
        page.y += 4
        members = list(members)
        for left, right in zip(members[::2], [*members[1::2], None]):
            pair = [each for each in (left, right) if each]
            said = [page.lines(f"“{case.sample['expression']}”", _CASE, 15, most=2) for case in pair]
            top, lines = page.y, max(map(len, said))
            for column, (case, expression) in enumerate(zip(pair, said)):
                page.y = max(
                    page.y, _draw_case(page, MARGIN + column * (_CASE + _BETWEEN), top, case, expression, lines)
                )
            page.y += 28
    return page


def _draw_case(page: Page, x: float, y: float, case: Case, expression: Sequence[str], lines: int) -> float:
    """Draws a case with its upper left corner at (x, y), leaves room for `lines` of expression; returns where it ends."""
    y += 14
    iou = f"IoU {float(case.sample['iou']):.3f}"
    page.text(x, y, iou, 14, bold=True)
    page.text(x + page.text_width(iou, 14, bold=True) + 12, y, case.sample["family"].replace("_", " "), colour=MUTED)
    page.text(x + _CASE, y, f"sent_id {case.sample['sent_id']}", 12, MUTED, align="right")
    for number, line in enumerate(expression):
        page.text(x, y + 24 + 20 * number, line, 15)
    y += 24 + 20 * (lines - 1) + 14
    pictures = case_pictures(case, _SIDE)
    for number, (name, picture) in enumerate(pictures):
        left = x + number * (_SIDE + _GAP)
        page.box(left, y, _SIDE, picture.shape[0], GROUND)
        page.picture(left + (_SIDE - picture.shape[1]) / 2, y, picture)
        page.text(left + _SIDE / 2, y + picture.shape[0] + 16, name, 12, MUTED, align="center")
    return y + pictures[0][1].shape[0] + 16
