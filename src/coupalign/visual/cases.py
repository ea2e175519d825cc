"""Best, median and worst cases of an evaluation, with their masks predicted again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from tqdm import tqdm

from coupalign.config import Config, load_config
from coupalign.data.dataset import Split
from coupalign.data.transform import mask_resizing
from coupalign.errors import UserError
from coupalign.evaluation.metric import intersection_and_union
from coupalign.inference.predictor import Predictor
from coupalign.visual.evaluations import Evaluation

# Keys that may differ from the evaluation: they change a mask by rounding only.
ELSEWHERE = "data_dir vocab_file device_target precision cpu_kernels num_workers prefetch output_dir".split()
# The largest change of an IoU by the rounding of another processor, and of another precision.
_ROUNDING, _OTHER_PRECISION = 0.02, 0.1


@dataclass(frozen=True)
class Case:
    """One sample of an evaluation."""

    group: str  # "best", "median" or "worst"
    sample: dict[str, Any]  # its row of the evaluation's CSV file
    image: np.ndarray  # (h, w, 3) uint8, RGB
    target: np.ndarray  # bool, at the size at which masks were compared
    prediction: np.ndarray  # bool, at the same size


def choose(samples: Sequence[dict[str, Any]], count: int) -> dict[str, list[int]]:
    """Row numbers of the `count` samples with the highest, the middle and the lowest IoU, each from high to low.

    Among equal IoUs, the samples with more pixels come first in "best" and in "worst". No image occurs twice in a
    group and no sample in two groups, so a group can be smaller.
    """
    ious = [Fraction(row["intersection"], row["union"]) if row["union"] else Fraction(1) for row in samples]
    best = sorted(range(len(samples)), key=lambda row: (-ious[row], -samples[row]["union"]))
    worst = sorted(range(len(samples)), key=lambda row: (ious[row], -samples[row]["union"]))
    middle = (len(best) - 1) / 2
    median = [best[rank] for rank in sorted(range(len(best)), key=lambda rank: abs(rank - middle))]
    groups: dict[str, list[int]] = {"best": [], "median": [], "worst": []}
    taken: set[int] = set()
    for name, order in (("best", best), ("worst", worst), ("median", median)):
        images: dict[int, int] = {}
        for row in order:
            if row not in taken:
                images.setdefault(samples[row]["image_id"], row)
        groups[name] = sorted(list(images.values())[:count], key=best.index)
        taken.update(groups[name])
    return groups


def predict_cases(
    evaluation: Evaluation, config: Config, checkpoint: str | os.PathLike, count: int, progress: bool = True
) -> list[Case]:
    """The cases of `choose`, each with its image and its mask at the evaluation's threshold and resolution.

    Raises: UserError if the configuration (except ``ELSEWHERE``) or the data set differs from the evaluation's, or a
    mask does not have the IoU that the evaluation found.
    """
    evaluated = load_config(overrides=evaluation.content["config"]).as_dict()
    for key, value in config.as_dict().items():
        if key not in ELSEWHERE and value != evaluated[key]:
            raise UserError(
                f"{key} is {value}, but {evaluation.path} was made with {evaluated[key]}: leave --{key} out"
            )
    samples = evaluation.samples()
    split = Split(config, evaluation.content["split"])
    rows = split.indices(config.evaluation.sentences, config.run.seed)[: len(samples)]
    for column in ("image_id", "ref_id", "ann_id", "sent_id", "expression"):
        if split.records[column][rows].tolist() != [sample[column] for sample in samples]:
            raise UserError(f"{config.data.data_dir} does not hold the samples of {evaluation.path}: set --data_dir")
    chosen = [(group, row) for group, members in choose(samples, count).items() for row in members]
    predictor = Predictor(checkpoint, config=config)
    side = config.model.image_size
    at_input = config.evaluation.eval_resolution == "input"
    same_precision = config.run.precision == evaluation.content["config"]["precision"]
    tolerance = _ROUNDING if same_precision else _OTHER_PRECISION
    pictures = split.pictures(rows[[row for _, row in chosen]], config.data.num_workers)
    cases = []
    for (group, row), picture in tqdm(zip(chosen, pictures), "predictions", len(chosen), disable=not progress):
        expression, target = samples[row]["expression"], picture["target"]
        size = (side, side) if at_input else None
        prediction = predictor.predict(picture["image"], expression, size=size).mask
        if at_input:
            target = target.astype(np.uint8) * 255
            for operation in mask_resizing(side):
                target = operation(target)
            target = target > 127
        intersection, union = (int(count[0]) for count in intersection_and_union(prediction, target))
        iou, expected = intersection / union if union else 1.0, samples[row]["iou"]
        if abs(iou - float(expected)) > tolerance:
            file = evaluation.path.with_suffix(".csv")
            raise UserError(f"{file}: IoU {expected} for “{expression}”, but here it is {iou:.6f}: run eval.py again")
        cases.append(Case(group, samples[row], picture["image"], target, prediction))
    return cases
