"""Training curves, drawn from the tables in a run's directory."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
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
_Columns = dict[str, np.ndarray]
PANELS = (*LOSSES, "oIoU", "learning_rate", "samples_per_second")


def draw_curves(directories: Sequence[str | os.PathLike]) -> Figure:
    """Losses, validation scores, learning rate and speed of one or several runs over the samples seen.

    Losses are drawn twice: every step, pale, and means over neighbouring steps. Raises: UserError without a run.
    """
    ends = [Path(directory).resolve().name for directory in directories]
    names = [end if ends.count(end) == 1 else str(path) for end, path in zip(ends, directories)]
    runs = dict(zip(names, map(_read_run, directories)))
    figure = new_figure(1430, 770)
    axes = dict(zip(PANELS, figure.subplots(2, 3, sharex=True).flat))
    for number, (name, (steps, epochs, _)) in enumerate(runs.items()):
        line = {"color": f"C{number}", "label": name}
        for loss in LOSSES:
            _draw_loss(axes[loss], steps["samples"], steps[loss], line)
        for score, style in (("oIoU", "o-"), ("mIoU", "s--")):
            there = np.isfinite(epochs[score])
            label = f"{name}: {score}" if len(runs) > 1 else score
            scores = 100 * epochs[score][there]
            axes["oIoU"].plot(epochs["samples"][there], scores, style, markersize=4, **{**line, "label": label})
        axes["learning_rate"].plot(steps["samples"], steps["learning_rate"], **line)
        axes["samples_per_second"].plot(epochs["samples"], epochs["samples_per_second"], "o-", markersize=4, **line)
    for panel, axis in axes.items():
        axis.set_title({"oIoU": "oIoU and mIoU on val_split, %"}.get(panel, panel.replace("_", " ")))
        axis.set_xlabel("samples seen" if panel in PANELS[3:] else "")
        axis.grid(alpha=0.3)
        if panel in ("oIoU", "samples_per_second"):
            axis.set_ylim(bottom=0)
        if panel in LOSSES:
            axis.set_ylim(_limits([steps[panel] for steps, _, _ in runs.values()]))
        if len(runs) > 1 or panel == "oIoU":
            axis.legend(fontsize="small")
    datasets = dict.fromkeys(dataset for _, _, dataset in runs.values())
    figure.suptitle(f"{', '.join(runs)}: {', '.join(datasets)}")
    return figure


def save_curves(directories: Sequence[str | os.PathLike], path: str | os.PathLike) -> None:
    """Writes `draw_curves` as PNG, atomically. Raises: UserError."""
    save(draw_curves(directories), path)


def _read_run(directory: str | os.PathLike) -> tuple[_Columns, _Columns, str]:
    """Columns of steps.csv and of curve.csv, with ``samples`` seen in both, and the name of the data set."""
    directory = Path(directory)
    try:
        steps, epochs = (_columns(directory / name) for name in ("steps.csv", "curve.csv"))
        config = yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))
        steps["samples"] = steps["step"] * config["batch_size"]
        return steps, epochs, dataset_name(config["dataset"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{directory} holds no run ({error}): pass the output_dir of a training") from error


def _draw_loss(axis: Axes, samples: np.ndarray, values: np.ndarray, line: Mapping[str, Any]) -> None:
    """Draws the finite values, smoothed if there are many."""
    samples, values = samples[np.isfinite(values)], values[np.isfinite(values)]
    if len(values) >= 2 * SMOOTHED:
        axis.plot(samples, values, color=line["color"], alpha=0.2, linewidth=0.7, zorder=1)
        samples, values = (
            np.array([part.mean() for part in np.array_split(each, SMOOTHED)]) for each in (samples, values)
        )
    axis.plot(samples, values, **line)


def _limits(losses: Sequence[np.ndarray]) -> tuple[float, float]:
    """Limits of an axis without the few outliers that would flatten the rest."""
    ranges = [np.percentile(each[np.isfinite(each)], (0.5, 99.5)) for each in losses if np.isfinite(each).any()]
    low, high = (min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else (0, 1)
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin


def _columns(path: Path) -> _Columns:
    """The columns of a CSV file, float64, nan where empty."""
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        return {name: np.array([float(row[name] or "nan") for row in rows]) for name in reader.fieldnames or ()}
