"""Cases of an evaluation as a picture (paper, Figure 3) and as one HTML file."""

from __future__ import annotations

import os
from collections.abc import Sequence

from matplotlib.figure import Figure

from coupalign.visual.cases import Case
from coupalign.visual.evaluations import Evaluation
from coupalign.visual.figures import fitted, heading, jpeg_uri, mosaic, new_figure, show, wrapped, write_page

_GROUPS = {
    "best": "The expressions with the highest IoU; no image twice.",
    "median": "The expressions around the median IoU; no image twice.",
    "worst": "The expressions with the lowest IoU; among equal ones, those with more wrong pixels; no image twice.",
}
_NAMES = ("image", "target", "prediction")
_WIDTH, _SIDE, _GAP = 1240, 180, 14


def draw_gallery(evaluation: Evaluation, cases: Sequence[Case]) -> Figure:
    """All cases in one figure, group by group."""
    groups = {name: [case for case in cases if case.group == name] for name in _GROUPS}
    groups = {name: members for name, members in groups.items() if members}
    heights = []
    for members in groups.values():
        tallest = max(fitted(case.image, _SIDE, _SIDE).shape[0] for case in members)
        heights.append(90 + (len(members) + 1) // 2 * (tallest + 110))
    figure = new_figure(_WIDTH, sum(heights) + 70)
    heading(figure, _headline(evaluation), [_summary(evaluation)])
    parts = figure.subfigures(len(groups), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (name, members) in zip(parts, groups.items()):
        heading(part, name.capitalize(), [_GROUPS[name]])
        axes = part.subplots((len(members) + 1) // 2, 2, squeeze=False).flat
        for axis, case in zip(axes, [*members, *[None] * (len(members) % 2)]):
            if case is None:
                axis.axis("off")
            else:
                _show_case(axis, case)
    return figure


def write_html(evaluation: Evaluation, cases: Sequence[Case], path: str | os.PathLike) -> None:
    """Writes the cases as one HTML page that loads nothing, to be sorted and filtered."""
    shown = [
        {
            "group": case.group,
            **{name: case.sample[name] for name in ("sent_id", "iou", "family", "expression")},
            "pictures": [(name, jpeg_uri(picture, 320)) for name, picture in zip(_NAMES, _pictures(case, 320))],
        }
        for case in cases
    ]
    write_page(
        path,
        "gallery.html",
        {
            "title": _headline(evaluation),
            "summary": _summary(evaluation),
            "groups": {name: about for name, about in _GROUPS.items() if any(case.group == name for case in cases)},
            "families": sorted({case.sample["family"] for case in cases} - {""}),
            "cases": shown,
        },
    )


def _show_case(axis, case: Case) -> None:
    picture, lefts, _ = mosaic([_pictures(case, _SIDE)], _GAP)
    family = case.sample["family"].replace("_", " ")
    title = f"IoU {float(case.sample['iou']):.3f}  {family}\n{wrapped(case.sample['expression'], 78, 2)}"
    show(axis, picture, title)
    width = (picture.shape[1] - 2 * _GAP) / 3
    axis.set_xticks([left + width / 2 for left in lefts], _NAMES)


def _pictures(case: Case, side: int):
    masks = (None, case.target, case.prediction)
    return [fitted(case.image, side, side, mask) for mask in masks]


def _headline(evaluation: Evaluation) -> str:
    return f"{evaluation.title}: cases from {evaluation.content['samples']:,} expressions"


def _summary(evaluation: Evaluation) -> str:
    metrics, checkpoint = evaluation.content["metrics"], evaluation.content["checkpoint"]["sha256"]
    figures = ", ".join(f"{name} {100 * metrics[name]:.2f} %" for name in ("oIoU", "mIoU", "prec@0.5"))
    return f"All expressions: {figures}; {evaluation.content['protocol']}. Checkpoint {checkpoint[:12]}."
