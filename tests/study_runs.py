"""A small study for tests, and what a run of one leaves."""

from __future__ import annotations

import json
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
    "failures": ["full", "uni"],
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


def leave_results(config: Config, attribute: list[tuple[int, int]], data: str = "abc") -> None:
    """As coupalign.study.child leaves for a split `val` with these (intersection, union) of attribute, and of ordinal (0, 10)."""
    directory = Path(config.run.output_dir)
    directory.mkdir(parents=True, exist_ok=True)
    counts = np.array([*attribute, (0, 10)])
    numbers = {name: np.arange(len(counts)) for name in ("image_id", "ref_id", "ann_id", "sent_id")}
    names = {
        "family": np.array(["attribute"] * len(attribute) + ["ordinal"]),
        "expression": np.array(["it"] * len(counts)),
        "category": np.array(["star"] * len(counts)),
    }
    columns = {**numbers, **names, "baselines": np.ones((len(counts), 4), np.int64)}
    config.save(directory / "config.yaml")
    Result(config, "val", columns, counts).save(directory / "eval")
    (directory / "alignment.csv").write_text(
        "step,entropy,largest_weight,image_gate_1,image_gate_2,image_gate_3,image_gate_4,text_gate_1,text_gate_2,"
        "text_gate_3,text_gate_4\n5,0.99,0.2,0.1,,0.3,,,,,\n10,0.5,0.25,0.15,,0.35,,,,,\n"
    )
    (directory / "starts.csv").write_text("143,30.0,20.5\n0,70.0,50.0\n")
    (directory / "done.json").write_text(
        json.dumps(
            {
                "steps": 10,
                "samples": 160,
                "training_seconds": 60.0,
                "evaluation_seconds": 9.0,
                "parameters": 1000,
                "data": data,
            }
        )
    )
