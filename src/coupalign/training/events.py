"""Events for TensorBoard, written by tensorboardX."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import make_image

from coupalign.files import make_directory
from coupalign.training.trackers import Status, Tracker


class Events(Tracker):
    """Writes scalars and images to an event file. All methods raise OSError if it cannot be written.

    tensorboardX's SummaryWriter writes from a thread, which dies silently when the disk is full and can then block the
    process. So this class uses the writer below it, which raises.

    Args:
        directory: Directory of the event files. Each start of a run adds a file.
        step: First step of this start. TensorBoard ignores what older files have from there on.
    """

    def __init__(self, directory: Path, step: int):
        # The writer's own names differ by the second only, and it overwrites.
        self._writer = EventsWriter(str(make_directory(directory) / "events"), f".{time.time_ns()}")
        self._add(Event(step=step, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        finite = [Summary.Value(tag=tag, simple_value=each) for tag, each in values.items() if math.isfinite(each)]
        self._add(Event(step=step, summary=Summary(value=finite)))

    def image(self, step: int, tag: str, rgb: np.ndarray) -> None:
        self._add(Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, image=make_image(rgb))])))

    def close(self, status: Status) -> None:
        self._writer.close()

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)
        self._writer.flush()
