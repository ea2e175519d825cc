"""Training curves, drawn from the tables in a run's directory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from coupalign.errors import UserError
from coupalign.visual.evaluations import dataset_name
from coupalign.visual.figures import new_figure, save

SMOOTHED = 50  # points of a smoothed curve
LOSSES = ("loss", "segmentation_loss", "auxiliary_loss")


def draw_curves(directories: Sequence[str | os.PathLike]) -> Figure:
    """Losses, validation scores, learning rate and speed of one or several runs over the samples seen.

    Losses are drawn twice: every step, pale, and means over neighbouring steps. Raises: UserError without a run.
    """
    figure = new_figure(1430, 770)
    axes = dict(zip((*LOSSES, "scores", "rate", "speed"), figure.subplots(2, 3, sharex=True).flat))
    datasets = []
    for number, directory in enumerate(directories):
        steps, epochs, config = _read_run(Path(directory))
        colour, name = f"C{number}", str(directory)
        samples = steps["step"] * config["batch_size"]
        for loss in LOSSES:
            _draw_loss(axes[loss], samples, steps[loss], colour, name)
        validated = epochs[np.isfinite(epochs["oIoU"])]
        for score, style in (("oIoU", "o-"), ("mIoU", "s--")):
            label = f"{name}: {score}"
            axes["scores"].plot(validated["samples"], 100 * validated[score], style, color=colour, label=label)
        axes["rate"].plot(samples, steps["learning_rate"], color=colour, label=name)
        axes["speed"].plot(epochs["samples"], epochs["samples_per_second"], "o-", color=colour, label=name)
        datasets.append(dataset_name(config["dataset"]))
    titles = {"scores": "oIoU and mIoU on val_split, %", "rate": "learning rate", "speed": "samples per second"}
    for panel, axis in axes.items():
        axis.set_title(titles.get(panel, panel.replace("_", " ")))
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
        if panel in titles:
            axis.set_xlabel("samples seen")
    figure.suptitle(", ".join(dict.fromkeys(datasets)))
    return figure


def save_curves(directories: Sequence[str | os.PathLike], path: str | os.PathLike) -> None:
    """Writes `draw_curves` as PNG, atomically. Raises: UserError."""
    save(draw_curves(directories), path)


def _read_run(directory: Path) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """steps.csv and curve.csv as structured arrays, nan where a cell is empty, and the configuration."""
    try:
        steps, epochs = (
            np.genfromtxt(directory / name, delimiter=",", names=True, ndmin=1) for name in ("steps.csv", "curve.csv")
        )
        config = yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))
        return steps, epochs, {key: config[key] for key in ("batch_size", "dataset")}
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{directory} holds no run ({error}): pass the output_dir of a training") from error


def _draw_loss(axis: Axes, samples: np.ndarray, values: np.ndarray, colour: str, name: str) -> None:
    """Draws the finite values, smoothed if there are many."""
    samples, values = samples[np.isfinite(values)], values[np.isfinite(values)]
    if len(values) >= 2 * SMOOTHED:
        axis.plot(samples, values, color=colour, alpha=0.2, linewidth=0.7, zorder=1)
        parts = (np.array_split(each, SMOOTHED) for each in (samples, values))
        samples, values = (np.array([part.mean() for part in each]) for each in parts)
    axis.plot(samples, values, color=colour, label=name)
