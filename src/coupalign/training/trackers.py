"""Trackers of a training: TensorBoard, Weights & Biases, or MLflow, as the key ``tracker`` says."""

from __future__ import annotations

import math
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np

from coupalign.errors import UserError
from coupalign.files import make_directory

PROJECT = "coupalign"  # the project of wandb, the experiment of MLflow
Status = Literal["FINISHED", "FAILED", "KILLED"]  # in MLflow's words


class Tracker(ABC):
    """Receives figures and pictures. Methods raise OSError or UserError if they cannot be written.

    As a context manager it closes with the status that the block has: killed by a signal, failed or finished.
    """

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        stopped = kind and issubclass(kind, (KeyboardInterrupt, SystemExit))
        self.close("KILLED" if stopped else "FAILED" if kind else "FINISHED")

    @abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds numbers by tag. Numbers that are not finite are left out."""

    @abstractmethod
    def image(self, step: int, tag: str, rgb: np.ndarray) -> None:
        """Adds a picture (H, W, 3) uint8."""

    @abstractmethod
    def close(self, status: Status) -> None: ...


def open_tracker(kind: str, directory: Path, step: int, config: Mapping[str, Any]) -> Tracker | None:
    """The tracker `kind`, a value of the key ``tracker``; None for "none".

    Args:
        directory: receives the files. MLflow uses the server of MLFLOW_TRACKING_URI instead if that is set.
        step: first step of this start. Each start of a training is a run of wandb or MLflow.
        config: shown with the run.

    Raises: UserError if the directory cannot be made or the tracker does not start.
    """
    if kind == "none":
        return None
    if kind == "tensorboard":
        from coupalign.training.events import Events  # late: the import takes half a second

        return Events(directory, step)
    name = f"{directory.parent.name} from step {step}"
    return (_Wandb if kind == "wandb" else _Mlflow)(make_directory(directory), name, config)


class _Wandb(Tracker):
    def __init__(self, directory: Path, name: str, config: Mapping[str, Any]):
        import wandb

        try:
            self._run = wandb.init(project=PROJECT, name=name, dir=str(directory), config=dict(config))
        except wandb.errors.Error as error:
            raise UserError(
                f"wandb does not start ({error}): run `wandb login`, set WANDB_MODE=offline, or choose another tracker"
            ) from error
        self._image = wandb.Image
        # Own steps, because wandb drops what comes for an earlier step than the last.
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **_finite(values)})

    def image(self, step: int, tag: str, rgb: np.ndarray) -> None:
        self._run.log({"step": step, tag: self._image(rgb)})

    def close(self, status: Status) -> None:
        self._run.finish(exit_code=int(status != "FINISHED"))


class _Mlflow(Tracker):
    def __init__(self, directory: Path, name: str, config: Mapping[str, Any]):
        from mlflow.entities import Metric, Param
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        # Without a server, MLflow writes files. It does so only on request since version 3.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._metric, self._error = Metric, MlflowException
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or directory.absolute().as_uri())
        try:
            found = self._client.get_experiment_by_name(PROJECT)
            experiment = found.experiment_id if found else self._client.create_experiment(PROJECT)
            self._run = self._client.create_run(experiment, run_name=name).info.run_id
            params = [Param(key, str(value)) for key, value in config.items()]
            self._client.log_batch(self._run, params=params[:100])
            self._client.log_batch(self._run, params=params[100:])
        except MlflowException as error:
            raise UserError(f"mlflow does not start ({error}): check MLFLOW_TRACKING_URI") from error

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        metrics = [self._metric(_name(tag), each, now, step) for tag, each in _finite(values).items()]
        try:
            self._client.log_batch(self._run, metrics=metrics)
        except self._error as error:
            raise UserError(f"mlflow refuses figures of step {step} ({error})") from error

    def image(self, step: int, tag: str, rgb: np.ndarray) -> None:
        try:
            self._client.log_image(self._run, rgb, artifact_file=f"step_{step:08}/{_name(tag)}.png")
        except self._error as error:
            raise UserError(f"mlflow refuses a picture of step {step} ({error})") from error

    def close(self, status: Status) -> None:
        with suppress(self._error):  # all figures are there already; only the status of the run would stay "running"
            self._client.set_terminated(self._run, status)


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {tag: float(each) for tag, each in values.items() if math.isfinite(each)}


def _name(tag: str) -> str:
    """A tag in the characters that MLflow allows in names."""
    return re.sub(r"[^\w/. -]", "_", tag)
