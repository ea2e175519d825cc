"""Pictures of cases of an evaluation (paper, Figure 3) and of samples of a data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from coupalign.config import Config
from coupalign.data.dataset import Split
from coupalign.visual.cases import Case
from coupalign.visual.evaluations import Evaluation, dataset_name
from coupalign.visual.figures import fitted, heading, mosaic, new_figure, show, wrapped

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
    heading(
        figure, f"{evaluation.title}: cases from {evaluation.content['samples']:,} expressions", _summary(evaluation)
    )
    parts = figure.subfigures(len(groups), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (name, members) in zip(parts, groups.items()):
        heading(part, name.capitalize(), _GROUPS[name])
        axes = part.subplots((len(members) + 1) // 2, 2, squeeze=False).flat
        for axis, case in zip(axes, [*members, *[None] * (len(members) % 2)]):
            if case is None:
                axis.axis("off")
            else:
                _show_case(axis, case)
    return figure


def draw_samples(config: Config, split_name: str, count: int) -> Figure:
    """Referents of a split, drawn by the seed: image, mask, and all that is said of them."""
    split = Split(config, split_name)
    mask_rows, firsts = np.unique(split.records["mask_row"], return_index=True)
    chosen = np.random.default_rng(config.run.seed).permutation(len(mask_rows))[:count]
    columns = 4
    side = (_WIDTH - 60) // columns
    figure = new_figure(_WIDTH, 60 + -(-len(chosen) // columns) * (side + 70))
    heading(figure, f"{dataset_name(config.data.name)} {split_name}: {len(chosen)} of {len(mask_rows):,} referents")
    axes = list(figure.subplots(-(-len(chosen) // columns), columns, squeeze=False).flat)
    for axis in axes:
        axis.axis("off")
    pictures = split.pictures(firsts[chosen], config.data.num_workers)
    for axis, choice, picture in zip(axes, chosen, pictures):
        said = split.records["expression"][split.records["mask_row"] == mask_rows[choice]].tolist()
        show(axis, fitted(picture["image"], side, side, picture["target"]), wrapped(" | ".join(said), 42, 3))
    return figure


def _show_case(axis, case: Case) -> None:
    masks = (None, case.target, case.prediction)
    picture, lefts, _ = mosaic([[fitted(case.image, _SIDE, _SIDE, mask) for mask in masks]], _GAP)
    family = case.sample["family"].replace("_", " ")
    title = f"IoU {float(case.sample['iou']):.3f}  {family}\n{wrapped(case.sample['expression'], 78, 2)}"
    show(axis, picture, title)
    width = (picture.shape[1] - 2 * _GAP) / 3
    axis.set_xticks([left + width / 2 for left in lefts], _NAMES)


def _summary(evaluation: Evaluation) -> str:
    metrics, checkpoint = evaluation.content["metrics"], evaluation.content["checkpoint"]["sha256"]
    figures = ", ".join(f"{name} {100 * metrics[name]:.2f} %" for name in ("oIoU", "mIoU", "prec@0.5"))
    return f"All expressions: {figures}; {evaluation.content['protocol']}. Checkpoint {checkpoint[:12]}."
