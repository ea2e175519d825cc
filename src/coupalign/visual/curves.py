"""Curves of trainings, from the tables that they leave."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from coupalign.errors import UserError
from coupalign.evaluation.result import SYNTHETIC
from coupalign.files import atomic_path

SMOOTHED = 50  # points that are left of a curve after means over neighbouring steps
PANELS = ("loss", "segmentation_loss", "auxiliary_loss", "oIoU", "learning_rate", "samples_per_second")


@dataclass(frozen=True)
class Curves:
    """steps.csv and curve.csv of a run by column, float64, nan for what is empty; both with ``samples`` seen."""

    steps: dict[str, np.ndarray]
    epochs: dict[str, np.ndarray]
    dataset: str


def read_run(directory: str | os.PathLike) -> Curves:
    """Raises: UserError where the directory holds no run."""
    directory = Path(directory)
    try:
        steps, epochs = (_columns(directory / name) for name in ("steps.csv", "curve.csv"))
        with open(directory / "config.yaml", encoding="utf-8") as file:
            config = yaml.safe_load(file)
        steps["samples"] = steps["step"] * config["batch_size"]
        return Curves(steps, epochs, config["dataset"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{directory} holds no run that can be drawn ({error}): give the output_dir of one") from error


def draw_curves(directories: Sequence[str | os.PathLike]) -> Figure:
    """Losses, scores of validation, learning rate and speed of one run or several over the samples seen.

    Losses are drawn for every step, pale, and as means over neighbouring steps.

    Raises: UserError where a directory holds no run.
    """
    runs = {_name(directory, directories): read_run(directory) for directory in directories}
    figure = Figure(figsize=(13, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = dict(zip(PANELS, figure.subplots(2, 3, sharex=True).flat))
    for number, (name, run) in enumerate(runs.items()):
        steps, epochs, colour = run.steps, run.epochs, f"C{number}"
        for loss in PANELS[:3]:
            _draw_loss(axes[loss], steps["samples"], steps[loss], colour, name)
        for score, line in (("oIoU", "o-"), ("mIoU", "s--")):
            there = np.isfinite(epochs[score])
            label = f"{name}: {score}" if len(runs) > 1 else score
            axes["oIoU"].plot(
                epochs["samples"][there], 100 * epochs[score][there], line, color=colour, markersize=4, label=label
            )
        axes["learning_rate"].plot(steps["samples"], steps["learning_rate"], color=colour, label=name)
        axes["samples_per_second"].plot(
            epochs["samples"], epochs["samples_per_second"], "o-", color=colour, markersize=4, label=name
        )
    for panel, axis in axes.items():
        axis.set_title({"oIoU": "oIoU and mIoU on val_split, %"}.get(panel, panel.replace("_", " ")))
        axis.set_xlabel("samples seen" if panel in PANELS[3:] else "")
        axis.grid(alpha=0.3)
        if panel in ("oIoU", "samples_per_second"):
            axis.set_ylim(bottom=0)
        if panel in PANELS[:3]:
            axis.set_ylim(_limits([run.steps[panel] for run in runs.values()]))
        if len(runs) > 1 or panel == "oIoU":
            axis.legend(fontsize="small")
    datasets = dict.fromkeys(run.dataset + " (synthetic)" * (run.dataset == SYNTHETIC) for run in runs.values())
    figure.suptitle(f"{', '.join(runs)}: {', '.join(datasets)}")
    return figure


def save_curves(directories: Sequence[str | os.PathLike], path: str | os.PathLike) -> None:
    """Writes draw_curves as PNG, whole or not at all. Raises: UserError as draw_curves, or where it cannot be written."""
    figure = draw_curves(directories)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _draw_loss(axis: Axes, samples: np.ndarray, values: np.ndarray, colour: str, name: str) -> None:
    """All values, pale, and means of neighbours; those that are not finite left out."""
    finite = np.isfinite(values)
    samples, values = samples[finite], values[finite]
    if len(values) < 2 * SMOOTHED:
        axis.plot(samples, values, color=colour, label=name)
        return
    axis.plot(samples, values, color=colour, alpha=0.2, linewidth=0.7, zorder=1)
    axis.plot(
        *([part.mean() for part in np.array_split(each, SMOOTHED)] for each in (samples, values)),
        color=colour,
        label=name,
    )


def _limits(losses: Sequence[np.ndarray]) -> tuple[float, float]:
    """Of an axis that shows all but the few values that are far off and would flatten the rest."""
    ranges = [np.percentile(each[np.isfinite(each)], (0.5, 99.5)) for each in losses if np.isfinite(each).any()]
    low, high = (min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else (0, 1)
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin


def _columns(path: Path) -> dict[str, np.ndarray]:
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        return {name: np.array([float(row[name] or "nan") for row in rows]) for name in reader.fieldnames or ()}


def _name(directory: str | os.PathLike, directories: Sequence[str | os.PathLike]) -> str:
    """The last part of a path, or all of it where others end alike."""
    ends = [Path(each).resolve().name for each in directories]
    end = Path(directory).resolve().name
    return end if ends.count(end) == 1 else str(directory)
