"""Best, median and worst cases of an evaluation, predicted again to be looked at."""

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
from coupalign.visual.results import Evaluation

# What may differ from the evaluation: where it runs and where files are, but nothing that a mask depends on.
ELSEWHERE = ("data_dir", "vocab_file", "device_target", "num_workers", "output_dir")
# IoUs that other processors' rounding can make of the same model; beyond it is another model or other data.
_ROUNDING = 0.02


@dataclass(frozen=True)
class Case:
    """One sample of an evaluation.

    Attributes:
        group: best, median or worst.
        sample: its row of the evaluation's CSV file.
        image: (h, w, 3) uint8, RGB.
        target, prediction: bool, at the size at which they were compared.
    """

    group: str
    sample: dict[str, Any]
    image: np.ndarray
    target: np.ndarray
    prediction: np.ndarray


def choose(samples: Sequence[dict[str, Any]], count: int) -> dict[str, list[int]]:
    """Numbers of the `count` samples with the highest, the middle and the lowest IoU, each group from high to low.

    Of equal IoUs those with more pixels are the better or the worse ones. A group has no image twice and no sample is
    in two groups, so that there can be fewer.
    """
    ious = [Fraction(row["intersection"], row["union"]) if row["union"] else Fraction(1) for row in samples]
    best = sorted(range(len(samples)), key=lambda row: (-ious[row], -samples[row]["union"]))
    worst = sorted(range(len(samples)), key=lambda row: (ious[row], -samples[row]["union"]))
    middle = (len(best) - 1) / 2
    median = [best[rank] for rank in sorted(range(len(best)), key=lambda rank: abs(rank - middle))]
    groups: dict[str, list[int]] = {}
    taken: set[int] = set()
    for name, order in (("best", best), ("worst", worst), ("median", median)):
        images: dict[int, int] = {}
        for row in order:
            if row not in taken:
                images.setdefault(samples[row]["image_id"], row)
        groups[name] = sorted(list(images.values())[:count], key=best.index)
        taken.update(groups[name])
    return {name: groups[name] for name in ("best", "median", "worst")}


def predict_cases(
    evaluation: Evaluation, config: Config, checkpoint: str | os.PathLike, count: int, progress: bool = True
) -> list[Case]:
    """The cases of `choose`, each with its picture, and with its mask at the evaluation's threshold and resolution.

    Args:
        config: that of the evaluation, but for ``ELSEWHERE``.
        checkpoint: the one that was evaluated.
        count: cases of a group.
        progress: show a bar on stderr.

    Raises:
        UserError: for another configuration or data set than was evaluated, and where a mask does not have the IoU
            that the evaluation found.
    """
    _check_config(evaluation, config)
    samples = evaluation.samples()
    split = Split(config, evaluation.content["split"])
    rows = split.indices(config.evaluation.sentences, config.run.seed)[: len(samples)]
    for column in ("image_id", "ref_id", "ann_id", "sent_id", "expression"):
        if split.records[column][rows].tolist() != [sample[column] for sample in samples]:
            raise UserError(
                f"{config.data.data_dir} does not hold the samples of {evaluation.path} ({column} differs): set "
                "--data_dir to the data set that was evaluated"
            )
    chosen = [(group, row) for group, members in choose(samples, count).items() for row in members]
    predictor = Predictor(checkpoint, config=config)
    size = (
        None if config.evaluation.eval_resolution == "original" else (config.model.image_size, config.model.image_size)
    )
    pictures = split.pictures(rows[[row for _, row in chosen]], config.data.num_workers)
    cases = []
    for (group, row), picture in tqdm(zip(chosen, pictures), "predictions", len(chosen), disable=not progress):
        found = predictor.predict(picture["image"], samples[row]["expression"], size=size).mask
        target = picture["target"] if size is None else _at_input(picture["target"], config.model.image_size)
        _check_iou(evaluation, samples[row], found, target)
        cases.append(Case(group, samples[row], picture["image"], target, found))
    return cases


def _check_config(evaluation: Evaluation, config: Config) -> None:
    evaluated = load_config(overrides=evaluation.content["config"]).as_dict()
    for key, value in config.as_dict().items():
        if key not in ELSEWHERE and value != evaluated[key]:
            raise UserError(
                f"{key} is {value}, but {evaluation.path} was made with {evaluated[key]}: leave --{key} out, "
                "or run eval.py with it"
            )


def _check_iou(evaluation: Evaluation, sample: dict[str, Any], prediction: np.ndarray, target: np.ndarray) -> None:
    intersection, union = (int(count[0]) for count in intersection_and_union(prediction, target))
    iou = intersection / union if union else 1.0
    if abs(iou - float(sample["iou"])) > _ROUNDING:
        raise UserError(
            f"{evaluation.path.with_suffix('.csv')} says IoU {sample['iou']} of “{sample['expression']}” "
            f"(sent_id {sample['sent_id']}), but it is {iou:.6f} here: run eval.py again"
        )


def _at_input(target: np.ndarray, image_size: int) -> np.ndarray:
    """A target at the size of the model's input, as in an evaluation at that resolution."""
    pixels = target.astype(np.uint8) * 255
    for operation in mask_resizing(image_size):
        pixels = operation(pixels)
    return pixels > 127
