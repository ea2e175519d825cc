"""Measures Q_w and the gates at each checkpoint of a training."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mindspore import Tensor
from scipy.stats import entropy

from coupalign.checkpoints.loading import load_checkpoint
from coupalign.checkpoints.state import checkpoints, read_state
from coupalign.config import Config
from coupalign.data.dataset import Split
from coupalign.evaluation.evaluate import evaluated_rows
from coupalign.files import atomic_path
from coupalign.inference.graph import PredictAll
from coupalign.model import Outputs

SAMPLES = 64
_GATES = [f"{kind}_gate_{stage}" for kind in ("image", "text") for stage in range(1, 5)]
COLUMNS = ("step", "entropy", "largest_weight", *_GATES)


def alignment_over_training(model: PredictAll, config: Config, directory: Path) -> None:
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
    inputs = [np.stack([each[name] for each in samples]) for name in ("image", "token_ids", "token_mask")]
    batches = list(zip(*(np.split(each, len(samples) // size) for each in inputs)))
    table = []
    for path in reversed(checkpoints(directory)):
        load_checkpoint(path, model.model)
        table.append({"step": read_state(path)[1].step, **_means(model, batches)})
    with atomic_path(directory / "alignment.csv") as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(table)


def _means(model: PredictAll, batches: Sequence[tuple[np.ndarray, ...]]) -> dict[str, float]:
    found = defaultdict(list)
    stages = [stage for stage, has_wpa in enumerate(model.model.has_wpa, 1) if has_wpa]
    for batch in batches:
        outputs = Outputs.from_tuple(model(*map(Tensor, batch)))
        q_w = outputs.weights.asnumpy().astype(np.float64)
        if model.model.has_sma and q_w.shape[1] > 1:
            found["entropy"].append(entropy(q_w, axis=1) / np.log(q_w.shape[1]))
            found["largest_weight"].append(q_w.max(1))
        for stage, alignment in zip(stages, outputs.alignments):
            found[f"image_gate_{stage}"].append(alignment.image_gate.asnumpy())
            if alignment.text_gate is not None:
                found[f"text_gate_{stage}"].append(alignment.text_gate.asnumpy())
    return {name: float(f"{np.concatenate(values).mean():.6g}") for name, values in found.items()}
