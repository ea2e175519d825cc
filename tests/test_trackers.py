"""wandb in offline mode, whose file has no public reader, and MLflow's file store, read back with its library."""

from __future__ import annotations

from contextlib import suppress

import cv2
import numpy as np
import pytest

from coupalign.checks import check_tracker
from coupalign.config import load_config
from coupalign.errors import ConfigError, UserError
from coupalign.training.stopping import Stopped
from coupalign.training.trackers import open_tracker

PICTURE = np.zeros((4, 12, 3), np.uint8)
PICTURE[0, 0] = 255, 0, 0
CONFIG = load_config(overrides={"seed": 7}).as_dict()


def track(kind, directory):
    """Three starts of a training: one is stopped, one fails after step 3 is not finite, one has nothing left."""
    for first, losses, end in ((1, (0.5, 0.25), Stopped(143)), (2, (0.125, float("nan")), UserError()), (4, (), None)):
        with suppress(Stopped, UserError), open_tracker(kind, directory, first, CONFIG) as tracker:
            for step, loss in enumerate(losses, first):
                tracker.scalars(step, {"train/loss": loss, "validation/prec@0.5": 0.75})
            if end:
                tracker.image(first, f"validation/{first}: the “red” cup?", PICTURE)
                raise end


@pytest.mark.slow
def test_mlflow_writes_files(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    track("mlflow", tmp_path / "my run" / "mlflow")
    client = MlflowClient((tmp_path / "my run" / "mlflow").as_uri())
    runs = client.search_runs([client.get_experiment_by_name("coupalign").experiment_id], order_by=["start_time"])
    assert [run.info.run_name for run in runs] == [f"my run from step {first}" for first in (1, 2, 4)]
    assert [run.info.status for run in runs] == ["KILLED", "FAILED", "FINISHED"]
    assert all(run.data.params["seed"] == "7" for run in runs)
    found = [
        [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, "train/loss")] for run in runs
    ]
    assert found == [[(1, 0.5), (2, 0.25)], [(2, 0.125)], []]
    assert runs[0].data.metrics["validation/prec_0.5"] == 0.75
    picture, _ = sorted((tmp_path / "my run").rglob("*.png"))
    np.testing.assert_array_equal(cv2.imread(str(picture))[..., ::-1], PICTURE)


@pytest.mark.slow
def test_wandb_writes_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    track("wandb", tmp_path / "my run" / "wandb")
    runs = sorted((tmp_path / "my run" / "wandb").rglob("*.wandb"))
    assert len(runs) == 3 and wandb.run is None
    for run in runs[:2]:
        content = run.read_bytes()
        assert b"my run from step" in content and b"train/loss" in content and b"validation/prec@0.5" in content
    for picture in (tmp_path / "my run").rglob("*.png"):
        np.testing.assert_array_equal(cv2.imread(str(picture))[..., ::-1], PICTURE)
    assert len(list((tmp_path / "my run").rglob("*.png"))) == 2


def test_trackers_that_are_not_installed_or_unknown(monkeypatch):
    monkeypatch.setattr("coupalign.checks.find_spec", lambda _: None)
    for kind in ("wandb", "mlflow"):
        with pytest.raises(UserError, match=f"pip install {kind}"):
            check_tracker(load_config(overrides={"tracker": kind}).training)
    for kind in ("tensorboard", "none"):
        check_tracker(load_config(overrides={"tracker": kind}).training)
    with pytest.raises(ConfigError, match="tracker"):
        load_config(overrides={"tensorboard": True})
    with pytest.raises(ConfigError, match="tensorboard, wandb, mlflow or none"):
        load_config(overrides={"tracker": "comet"})


def test_no_tracker_writes_nothing(tmp_path):
    assert open_tracker("none", tmp_path / "none", 1, CONFIG) is None
    assert not list(tmp_path.iterdir())
