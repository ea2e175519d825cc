"""Measures Q_w and the gates at each checkpoint of a training."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
from mindspore import Tensor, nn
from scipy.stats import entropy

from coupalign.checkpoints.loading import load_checkpoint
from coupalign.checkpoints.state import checkpoints, read_state
from coupalign.config import Config
from coupalign.data.dataset import Split
from coupalign.evaluation.evaluate import evaluated_rows
from coupalign.files import atomic_path

SAMPLES = 64
_GATES = [f"{kind}_gate_{stage}" for kind in ("image", "text") for stage in range(1, 5)]
COLUMNS = ("step", "entropy", "largest_weight", *_GATES)


class WithAlignment(nn.Cell):
    """A model that also returns Q_w and the openings of its gates.

    Inputs: as CoupAlign. Outputs: logits (B, H, W); Q_w (B, N); openings, one (B,) tensor for each name of ``gates``.
    """

    def __init__(self, model: nn.Cell):
        super().__init__(auto_prefix=False)
        self.model = model
        self.set_train(False)

    def construct(self, image: Tensor, token_ids: Tensor, token_mask: Tensor) -> tuple:
        logits, _, _, weights, alignments = self.model.all_outputs(image, token_ids, token_mask)
        openings = ()
        for each in alignments:
            openings += (each[2],)
            if each[3] is not None:
                openings += (each[3],)
        return logits, weights, openings

    def gates(self) -> list[str]:
        """Names of the openings, a subset of ``COLUMNS``."""
        stages = [(stage, wpa) for stage, wpa in enumerate(self.model.wpa, 1) if self.model.has_wpa[stage - 1]]
        kinds = {True: ("image", "text"), False: ("image",)}
        return [f"{kind}_gate_{stage}" for stage, wpa in stages for kind in kinds[wpa.bidirectional]]


def alignment_over_training(model: WithAlignment, config: Config, directory: Path) -> None:
    """Writes alignment.csv: means over the first samples of ``val_split``, one row per checkpoint of the run.

    Only the families of expressions trained on count. ``entropy`` is the entropy of Q_w over log N.
    """
    split = Split(config, config.training.val_split)
    rows = evaluated_rows(config, split, config.training.val_split, 0)
    if config.training.train_families != ("all",):
        rows = rows[np.isin(split.records["family"][rows], config.training.train_families)]
    size = config.evaluation.eval_batch_size
    rows = np.resize(rows, size * math.ceil(SAMPLES / size))
    samples = list(split.samples(rows, config.data.num_workers))
    names = ("image", "token_ids", "token_mask")
    batches = [
        [np.stack([each[name] for each in samples[start : start + size]]) for name in names]
        for start in range(0, len(samples), size)
    ]
    table = []
    for path in reversed(checkpoints(directory)):
        load_checkpoint(path, model.model)
        table.append({"step": read_state(path)[1].step, **_means(model, batches)})
    with atomic_path(directory / "alignment.csv") as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(table)


def _means(model: WithAlignment, batches: list[list[np.ndarray]]) -> dict[str, float]:
    weights, openings = [], []
    for batch in batches:
        _, q_w, opened = model(*map(Tensor, batch))
        weights.append(q_w.asnumpy())
        openings.append([each.asnumpy() for each in opened])
    means = dict(zip(model.gates(), np.concatenate(openings, 1).mean(1).tolist() if openings[0] else ()))
    q_w = np.concatenate(weights).astype(np.float64)
    if model.model.has_sma and q_w.shape[1] > 1:
        means["entropy"] = (entropy(q_w, axis=1) / np.log(q_w.shape[1])).mean()
        means["largest_weight"] = q_w.max(1).mean()
    return {name: float(f"{value:.6g}") for name, value in means.items()}
