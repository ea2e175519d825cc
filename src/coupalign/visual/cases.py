"""Best, median and worst cases of an evaluation, with their masks predicted again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from coupalign.config import Config
from coupalign.data.dataset import Split
from coupalign.errors import UserError
from coupalign.evaluation.metric import intersection_and_union
from coupalign.inference.predictor import Predictor
from coupalign.visual.evaluations import Evaluation

TOLERANCE = 0.1  # of an IoU that another processor or precision computes


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
    ious = [row["intersection"] / row["union"] if row["union"] else 1.0 for row in samples]
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

    Raises: UserError if the data set differs from the evaluation's, or a mask does not have the IoU that it found.
    """
    samples = evaluation.samples()
    split = Split(config, evaluation.content["split"])
    rows = split.indices(config.evaluation.sentences, config.run.seed)[: len(samples)]
    for column in ("image_id", "ref_id", "ann_id", "sent_id", "expression"):
        if split.records[column][rows].tolist() != [sample[column] for sample in samples]:
            raise UserError(f"{config.data.directory} does not hold the samples of {evaluation.path}: set --data_dir")
    chosen = [(group, row) for group, members in choose(samples, count).items() for row in members]
    predictor = Predictor(checkpoint, config=config)
    which = "input_target" if config.evaluation.eval_resolution == "input" else "target"
    wanted, workers = rows[[row for _, row in chosen]], config.data.num_workers
    cases = []
    triples = zip(chosen, split.pictures(wanted, workers), split.samples(wanted, workers))
    for (group, row), picture, sample in tqdm(triples, "predictions", len(chosen), disable=not progress):
        image, target, expected = picture["image"], sample[which], samples[row]["iou"]
        prediction = predictor.predict(image, samples[row]["expression"], size=target.shape).mask
        intersection, union = (int(count[0]) for count in intersection_and_union(prediction, target))
        iou = intersection / union if union else 1.0
        if abs(iou - float(expected)) > TOLERANCE:
            file, expression = evaluation.path.with_suffix(".csv"), samples[row]["expression"]
            raise UserError(f"{file}: IoU {expected} for “{expression}”, but here it is {iou:.6f}: run eval.py again")
        cases.append(Case(group, samples[row], image, target, prediction))
    return cases
