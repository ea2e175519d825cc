"""Measures of the two alignments: whether attention attends, masks differ and weights choose (docs/sma.md)."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor, nn
from scipy.special import expit, xlogy

from coupalign.checkpoints.trained import trained_model
from coupalign.config import Config
from coupalign.data.dataset import Split
from coupalign.data.mindrecord import MOST_OBJECTS
from coupalign.evaluation.evaluate import evaluated_rows
from coupalign.files import find_file, sha256, write_text
from coupalign.model import CoupAlign

STREAMS = ("L_1", "L_2", "L_3", "L_4", "L_o", "V_1", "V_2", "V_3", "V_4", "V_o", "S_o", "memory", "Q_o", "Y_N")


class Streams(nn.Cell):
    """What flows through a model.

    Inputs: as of ``CoupAlign``. Outputs: V_1 … V_4 before fusion and V_o, (B, C_i, H_i, W_i); L_1 … L_4 before fusion
    and L_o, (B, T, D); S_o (B, H_oW_o, C_o); the values of ``Alignment`` by stage, without None; with SMA also the
    memory of the mask generator (B, H_oW_o, d_q), Q_o (B, N, d_q), Y_N (B, N, H/4, W/4) and Q_w (B, N).
    """

    def __init__(self, model: CoupAlign):
        super().__init__(auto_prefix=False)
        self.model = model

    def construct(self, image: Tensor, token_ids: Tensor, token_mask: Tensor) -> tuple:
        model = self.model
        images, fused, words, alignments = model.encode(image, token_ids, token_mask)
        encoded = tuple(images), tuple(words), fused, alignments
        if not model.has_sma:
            return encoded
        _, pixels, weights, embeddings = model.decode(images, fused, words[-1])
        generator = model.mask_generator
        queries = generator(fused)  # type: ignore[misc]
        return *encoded, generator.memory(fused), queries, model.sma.masks(embeddings, pixels), weights


@dataclass(frozen=True)
class Measures:
    """Means over samples. A name that a model has not, such as a stage without Word-Pixel Alignment, is missing.

    Attributes:
        variance: By stream: variance over tokens or masks around their mean, divided by their mean square; 0 if all are
            equal, at most 1. Padding is left out, as everywhere.
        rms: By stream: root mean square.
        over_words: By stage: how far attention over words differs between pixels; see ``divergence``.
        over_pixels: By stage: how far attention over pixels differs between words.
        gates: "image 1" … "text 4": mean magnitude of the gates.
        proposals: ``entropy`` of Q_w divided by log N; ``largest_weight``; IoU with the referent of the ``heaviest``,
            the ``best`` and the ``mean`` mask and of the ``mixture`` M, at the size of the proposals; ``covered``, the
            share of the image's objects that some proposal has an IoU above 0.5 with; ``correlation`` of weight and IoU
            over all proposals.
    """

    samples: int
    variance: dict[str, float]
    rms: dict[str, float]
    over_words: dict[int, float]
    over_pixels: dict[int, float]
    gates: dict[str, float]
    proposals: dict[str, float]

    def table(self) -> str:
        """The measures as text."""
        lines = [f"{'':<8}{'variance':>10}{'RMS':>10}"]
        lines += [
            f"{name:<8}{self.variance[name]:>10.2g}{self.rms[name]:>10.3g}" for name in STREAMS if name in self.rms
        ]
        if self.over_words:
            lines += ["", f"{'stage':<8}{'over words':>12}{'over pixels':>13}{'image gate':>12}{'text gate':>11}"]
        for stage, value in self.over_words.items():
            pixels = f"{self.over_pixels[stage]:.3f}" if stage in self.over_pixels else "-"
            text = f"{self.gates[f'text {stage}']:.2f}" if f"text {stage}" in self.gates else "-"
            lines.append(f"{stage:<8}{value:>12.3f}{pixels:>13}{self.gates[f'image {stage}']:>12.2f}{text:>11}")
        lines += ["", *(f"{name.replace('_', ' '):<16}{value:>8.4f}" for name, value in self.proposals.items())]
        return "\n".join(lines)


def measure(config: Config, checkpoint: str | os.PathLike, name: str) -> tuple[Measures, dict[str, Any]]:
    """Measures a checkpoint on the first ``eval_limit`` samples of a split, 0 for all.

    Returns: The measures; what was measured, for JSON.

    Raises:
        UserError: The split or the checkpoint is missing or does not fit.
    """
    split = Split(config, name)
    streams = Streams(trained_model(config, checkpoint)).set_train(False)
    rows = evaluated_rows(config, split, name, config.evaluation.eval_limit)
    measures = mean_measures(streams, batches(config, split, rows), config.evaluation.threshold)
    about = {"checkpoint": {"file": str(checkpoint), "sha256": sha256(find_file(checkpoint))}}
    return measures, {**about, "dataset": config.data.name, "split": name, "config": config.as_dict()}


def save(path: Path, measures: Measures, about: Mapping[str, Any]) -> None:
    """Writes measures and what they are about as JSON; a value that cannot be computed is null."""
    plain = {
        key: {name: None if math.isnan(each) else each for name, each in value.items()}
        if isinstance(value, dict)
        else value
        for key, value in asdict(measures).items()
    }
    write_text(path, json.dumps({**about, **plain}, indent=2) + "\n")


def batches(config: Config, split: Split, rows: np.ndarray) -> Iterable[dict[str, np.ndarray]]:
    """Stacks rows of a split into batches of ``eval_batch_size``; the last repeats its last row, marked by `real`."""
    size = config.evaluation.eval_batch_size
    part: list[dict[str, np.ndarray]] = []
    count = 0
    for sample in split.samples(rows, config.data.num_workers, MOST_OBJECTS if split.has_objects else 0):
        sample.pop("target")
        part.append(sample)
        count += 1
        if len(part) == size or count == len(rows):
            real = np.arange(size) < len(part)
            part += [part[-1]] * (size - len(part))
            yield {**{key: np.stack([each[key] for each in part]) for key in sample}, "real": real}
            part = []


def mean_measures(streams: Streams, samples: Iterable[dict[str, np.ndarray]], threshold: float) -> Measures:
    """Measures a model in evaluation mode on the batches of ``batches``; masks are compared at `threshold`."""
    found: dict[str, dict] = {
        each: defaultdict(list) for each in ("variance", "rms", "over_words", "over_pixels", "gates")
    }
    scores = defaultdict(list)
    pairs: list[np.ndarray] = []
    stages = [stage for stage, has_wpa in enumerate(streams.model.has_wpa, 1) if has_wpa]
    count = 0
    for batch in samples:
        outputs = _arrays(streams(*(Tensor(batch[name]) for name in ("image", "token_ids", "token_mask"))))
        for sample in np.flatnonzero(batch["real"]):
            count += 1
            words = batch["token_mask"][sample] > 0
            for name, stream in _streams(outputs, sample, words):
                found["variance"][name].append(relative_variance(stream))
                found["rms"][name].append(float(np.sqrt(np.square(stream, dtype=np.float64).mean())))
            for stage, (over_words, *rest) in zip(stages, outputs[3]):
                found["over_words"][stage].append(divergence(over_words[sample][:, words]))
                found["gates"][f"image {stage}"].append(rest[-2 if len(rest) > 1 else -1][sample])
                if len(rest) > 1:
                    found["over_pixels"][stage].append(divergence(rest[0][sample][words]))
                    found["gates"][f"text {stage}"].append(rest[-1][sample])
            if len(outputs) > 4:
                objects = batch["objects"][sample] > 0 if "objects" in batch else None
                target = nearest(batch["input_target"][sample], outputs[6].shape[-1])
                values, of_each = score_proposals(outputs[6][sample], outputs[7][sample], target, objects, threshold)
                pairs.append(np.stack([outputs[7][sample], of_each]))
                for name, value in values.items():
                    scores[name].append(value)
    means: dict[str, Any] = {
        kind: {name: float(np.mean(values)) for name, values in each.items()} for kind, each in found.items()
    }
    proposals = {
        name: float(np.nanmean(values)) if not np.isnan(values).all() else math.nan for name, values in scores.items()
    }
    if pairs:
        proposals["correlation"] = correlation(*np.concatenate(pairs, 1))
    return Measures(samples=count, **means, proposals=proposals)


def _arrays(outputs: Any) -> Any:
    return tuple(map(_arrays, outputs)) if isinstance(outputs, (tuple, list)) else outputs.asnumpy()


def _streams(outputs: tuple, sample: int, words: np.ndarray) -> Iterable[tuple[str, np.ndarray]]:
    """Names and tokens (n, C) of one sample, of the outputs of ``Streams``; `words` are those without padding."""
    images, texts, fused, _, *decoder = outputs
    for name, each in zip("1234o", images):
        yield f"V_{name}", each[sample].reshape(each.shape[1], -1).T
    for name, each in zip("1234o", texts):
        yield f"L_{name}", each[sample][words]
    yield "S_o", fused[sample]
    for name, each in zip(("memory", "Q_o", "Y_N"), decoder):
        yield name, each[sample].reshape(each.shape[1], -1)


def relative_variance(x: np.ndarray) -> float:
    """Variance of vectors (n, C) around their mean, divided by their mean square: 0 if they are equal, at most 1."""
    x = x.astype(np.float64)
    return float(x.var(0).mean() / max(np.square(x).mean(), np.finfo(float).tiny))


def divergence(rows: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence of distributions (n, k) from their mean, in nats: 0 if equal, at most log n.

    It is the generalised Jensen-Shannon divergence.
    """
    rows = rows.astype(np.float64)
    mean = rows.mean(0)
    return float(xlogy(rows, rows).sum(1).mean() - xlogy(mean, mean).sum())


def nearest(mask: np.ndarray, size: int) -> np.ndarray:
    """Mask (S, S) -> (size, size), from the pixels in the middle of the cells."""
    places = (2 * np.arange(size) + 1) * len(mask) // (2 * size)
    return mask[places][:, places]


def iou(masks: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """IoU of every mask (N, h, w) with every target (K, h, w), bool: (N, K); 0 with an empty target."""
    a, b = (each.reshape(len(each), -1).astype(np.float64) for each in (masks, targets))
    shared = a @ b.T
    return shared / np.maximum(a.sum(1)[:, None] + b.sum(1) - shared, 1)


def score_proposals(
    proposals: np.ndarray, weights: np.ndarray, target: np.ndarray, objects: np.ndarray | None, threshold: float
) -> tuple[dict[str, float], np.ndarray]:
    """Scores the proposals of one sample.

    Args:
        proposals: Y_N (N, h, w), logits.
        weights: Q_w (N,).
        target: The referent (h, w), bool.
        objects: The image's objects (K, h, w), bool, empty for none; None if unknown.
        threshold: Probability above which a pixel belongs to a mask.

    Returns: ``Measures.proposals`` without the correlation; IoU of each proposal with the referent, (N,).
    """
    proposals, weights = proposals.astype(np.float64), weights.astype(np.float64)
    mixed = np.stack([proposals.mean(0), np.tensordot(weights, proposals, 1)])
    masks = expit(proposals) > threshold
    of_each = iou(masks, target[None])[:, 0]
    of_mean, of_mixture = iou(expit(mixed) > threshold, target[None])[:, 0]
    covered = math.nan
    if objects is not None and objects.any():
        covered = float((iou(masks, objects[objects.any((1, 2))]).max(0) > 0.5).mean())
    entropy = -xlogy(weights, weights).sum()
    scores = {
        "entropy": float(entropy / np.log(len(weights))) if len(weights) > 1 else 0.0,
        "largest_weight": float(weights.max()),
        "heaviest": float(of_each[weights.argmax()]),
        "best": float(of_each.max()),
        "mean": float(of_mean),
        "mixture": float(of_mixture),
        "covered": covered,
    }
    return scores, of_each


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of (n,) with (n,); NaN if one of them is constant to within rounding."""
    return float(np.corrcoef(a, b)[0, 1]) if min(np.ptp(a), np.ptp(b)) > 1e-6 else math.nan
