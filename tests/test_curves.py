"""Curves of training against the tables they are drawn from."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from coupalign.config import load_config
from coupalign.errors import UserError
from coupalign.training.run_directory import EPOCH_COLUMNS, RunDirectory
from coupalign.visual.curves import draw_curves, save_curves
from tests.test_run_logs import epoch_figures, step_figures


def curves(directory, steps=300, offset=0.0):
    """The tables of a run of 60 steps an epoch, with a loss that falls linearly."""
    overrides = {"batch_size": 2, "dataset": "refshapes", "output_dir": str(directory), "tracker": "none"}
    run = RunDirectory(load_config(overrides=overrides), None)
    for step in range(1, steps + 1):
        run.log_step(step_figures(step, math.nan if step == 50 else 4 + offset - step / 100))
        if step % 60 == 0:
            figures = {**epoch_figures(step // 60), "step": step, "samples": 2 * step}
            run.log_epoch(figures if step % 120 == 0 else {key: figures[key] for key in EPOCH_COLUMNS[:3]})
    return directory


def test_curves_have_the_figures_of_the_tables(tmp_path):
    one, two = curves(tmp_path / "one"), curves(tmp_path / "two", 30, offset=1.0)
    figure = draw_curves([one, two])
    panels = {axis.get_title(): axis for axis in figure.axes}
    loss = {
        line.get_label(): line.get_xydata() for line in panels["loss"].lines if not line.get_label().startswith("_")
    }
    assert set(loss) == {str(one), str(two)} and len(loss[str(one)]) < 60 and len(loss[str(two)]) == 30
    for run, offset in ((one, 0.0), (two, 1.0)):
        samples, values = loss[str(run)].T
        np.testing.assert_allclose(values, 4 + offset - samples / 2 / 100, atol=1e-9)
    scores = {line.get_label(): line.get_xydata() for line in panels["oIoU and mIoU on val_split, %"].lines}
    assert scores[f"{one}: oIoU"].tolist() == [[240, 50], [480, 100]]
    assert "synthetic" in figure.get_suptitle()
    save_curves([one], tmp_path / "curve.png")
    assert cv2.imread(str(tmp_path / "curve.png")) is not None
    with pytest.raises(UserError, match="nowhere holds no run"):
        draw_curves([tmp_path / "nowhere"])
