"""Events for TensorBoard."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from coupalign.files import make_directory

FLUSH_SECONDS = 20


class Events:
    """Writes a file of events.

    They are written here and now, not by the thread of tensorboardX's SummaryWriter: on a full disk that one dies, and
    training would wait for it for ever.

    Args:
        directory: of the event files, one a start.
        step: where this start goes on. TensorBoard drops what older files have from there on.

    Raises: OSError where it cannot be written, as all methods do.
    """

    def __init__(self, directory: Path, step: int):
        make_directory(directory)
        self._file = RecordWriter(str(directory / f"events.out.tfevents.{time.time():.6f}.{os.getpid()}"))
        self._flushed = time.monotonic()
        self._add(file_version="brain.Event:2")
        self._add(step=step, session_log=SessionLog(status=SessionLog.START))
        self.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds numbers by tag; those that are not finite are left out."""
        self._add(
            step=step,
            summary=Summary(
                value=[
                    Summary.Value(tag=tag, simple_value=value) for tag, value in values.items() if math.isfinite(value)
                ]
            ),
        )

    def images(self, step: int, pictures: Sequence[tuple[str, np.ndarray]]) -> None:
        """Adds pictures, (H, W, 3) uint8 RGB, each with its tag."""
        self._add(
            step=step,
            summary=Summary(
                value=[
                    Summary.Value(
                        tag=tag,
                        image=Summary.Image(
                            height=rgb.shape[0],
                            width=rgb.shape[1],
                            colorspace=3,
                            encoded_image_string=cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[
                                1
                            ].tobytes(),
                        ),
                    )
                    for tag, rgb in pictures
                ]
            ),
        )

    def flush(self) -> None:
        """Returns when the events would survive a power cut."""
        self._file.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        self._file.close()

    def _add(self, **values: Any) -> None:
        self._file.write(Event(wall_time=time.time(), **values).SerializeToString())
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()
