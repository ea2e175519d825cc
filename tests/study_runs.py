"""A small study for tests, and what a run of one leaves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from coupalign.config import Config
from coupalign.evaluation.result import Result

SMALL = {
    "base": "benchmarks/smallest.yaml",
    "keys": {"eval_splits": ["val"]},
    "reference": "full",
    "split": "val",
    "family": "attribute",
    "seeds": [1],
    "rows": {"full": {}, "uni": {"wpa_direction": "uni"}, "wide": {"seg_head_dim": 16}},
    "tables": {
        "four": {
            "title": "Four",
            "seeds": [1, 2, 3],
            "rows": {
                "uni": {"label": "one way", "paper": {"oIoU": 72.7}},
                "full": {"label": "all", "paper": {"oIoU": 74.7}},
            },
        },
        "ours": {"title": "Ours", "rows": {"full": {"label": "all"}, "wide": {"label": "wider"}}},
    },
}


def write(directory: Path, content: dict | str) -> Path:
    """The study file of that content."""
    path = directory / "small.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return path


def leave_results(config: Config, attribute: list[tuple[int, int]], baseline: int = 1) -> None:
    """Files of a run whose split `val` has these (intersection, union) of attribute, and (0, 10) of ordinal."""
    directory = Path(config.run.output_dir)
    directory.mkdir(parents=True, exist_ok=True)
    counts = np.array([(*pair, 1, 1) for pair in (*attribute, (0, 10))])
    numbers = {name: np.arange(len(counts)) for name in ("image_id", "ref_id", "ann_id", "sent_id")}
    names = {
        "family": np.array(["attribute"] * len(attribute) + ["ordinal"]),
        "expression": np.array(["it"] * len(counts)),
        "category": np.array(["star"] * len(counts)),
    }
    columns = {**numbers, **names, "baselines": np.tile([baseline, 1, baseline, 1], (len(counts), 1))}
    config.save(directory / "config.yaml")
    Result(config, "val", columns, counts).save(directory / "eval")
    (directory / "curve.csv").write_text("step,samples,seconds\n5,80,30\n10,160,72\n")
