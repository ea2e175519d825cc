"""How sharply Q_w chooses, and how far the gates are open, from checkpoint to checkpoint of a training."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
from mindspore import Tensor, nn

from coupalign.checkpoints.loading import load_checkpoint
from coupalign.checkpoints.state import checkpoints, read_state
from coupalign.config import Config
from coupalign.data.dataset import Split
from coupalign.evaluation.evaluate import evaluated_rows
from coupalign.files import atomic_path

SAMPLES = 64
COLUMNS = (
    "step",
    "entropy",
    "largest_weight",
    *(f"image_gate_{stage}" for stage in range(1, 5)),
    *(f"text_gate_{stage}" for stage in range(1, 5)),
)


class Watched(nn.Cell):
    """A model with, beside its logits, Q_w and the openings of its gates.

    Inputs: as CoupAlign. Outputs: logits (B, H, W); Q_w (B, N); openings (B,) in the order of ``gates``.
    """

    def __init__(self, model: nn.Cell):
        super().__init__(auto_prefix=False)
        self.model = model
        self.set_train(False)

    def construct(self, image: Tensor, token_ids: Tensor, token_mask: Tensor) -> tuple:
        logits, _, _, weights, alignments = self.model.predict_all(image, token_ids, token_mask)
        openings = ()
        for each in alignments:
            openings += (each[2],)
            if each[3] is not None:
                openings += (each[3],)
        return logits, weights, openings

    def gates(self) -> list[str]:
        """Names, among ``COLUMNS``, of the openings."""
        return [
            f"{kind}_gate_{stage}"
            for stage, wpa in enumerate(self.model.wpa, 1)
            if self.model.aligned[stage - 1]
            for kind in (("image", "text") if wpa.bidirectional else ("image",))
        ]


def alignment_over_training(watched: Watched, config: Config, directory: Path) -> None:
    """Writes alignment.csv: means over the first samples of ``val_split`` of the families trained on, a row for each of
    the run's checkpoints that there are. ``entropy`` is that of Q_w over log N, 1 where all masks weigh the same.
    """
    split = Split(config, config.training.val_split)
    rows = evaluated_rows(config, split, config.training.val_split, 0)
    if config.training.train_families != ("all",):
        rows = rows[np.isin(split.records["family"][rows], config.training.train_families)]
    rows = np.resize(rows, config.evaluation.eval_batch_size * math.ceil(SAMPLES / config.evaluation.eval_batch_size))
    samples = list(split.samples(rows, config.data.num_workers))
    table = []
    for path in reversed(checkpoints(directory)):
        load_checkpoint(path, watched.model)
        table.append({"step": read_state(path)[1].step, **_means(watched, samples, config.evaluation.eval_batch_size)})
    with (
        atomic_path(directory / "alignment.csv") as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(table)


def _means(watched: Watched, samples: list[dict[str, np.ndarray]], size: int) -> dict[str, float]:
    weights, openings = [], []
    for start in range(0, len(samples), size):
        batch = samples[start : start + size]
        inputs = (Tensor(np.stack([each[name] for each in batch])) for name in ("image", "token_ids", "token_mask"))
        _, q_w, opened = watched(*inputs)
        weights.append(q_w.asnumpy())
        openings.append([each.asnumpy() for each in opened])
    means = dict(zip(watched.gates(), np.concatenate(openings, 1).mean(1).tolist() if openings[0] else ()))
    q_w = np.concatenate(weights).astype(np.float64)
    if watched.model.has_sma and q_w.shape[1] > 1:
        means["entropy"] = relative_entropy(q_w).mean()
        means["largest_weight"] = q_w.max(1).mean()
    return {name: float(f"{value:.6g}") for name, value in means.items()}


def relative_entropy(weights: np.ndarray) -> np.ndarray:
    """Entropy of each row over that of equal weights: (n, N) float64 -> (n,), from 0 to 1."""
    logs = np.log(weights, out=np.zeros_like(weights), where=weights > 0)
    return -(weights * logs).sum(1) / np.log(weights.shape[1])
