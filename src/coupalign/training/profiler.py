"""A trace of a few steps by mindspore.profiler."""

from __future__ import annotations

import logging
from pathlib import Path

from mindspore import profiler
from mindspore.profiler import ProfilerActivity

logger = logging.getLogger(__name__)
SKIPPED = 3  # first steps of a start: one compiles, the next fill caches
_DEVICE_ACTIVITIES = {"CPU": [], "GPU": [ProfilerActivity.GPU], "Ascend": [ProfilerActivity.NPU]}


class StepProfiler:
    """Traces `steps` steps of this start (0 for none), after the first SKIPPED, into a directory."""

    def __init__(self, steps: int, device: str, directory: Path):
        self._directory = directory
        self._profile = None
        self._left = SKIPPED + steps
        if steps:
            self._profile = profiler.profile(
                activities=[ProfilerActivity.CPU, *_DEVICE_ACTIVITIES[device]],
                schedule=profiler.schedule(wait=0, warmup=0, active=steps, repeat=1, skip_first=SKIPPED),
                on_trace_ready=profiler.tensorboard_trace_handler(str(directory)),
            )

    def step(self) -> None:
        """Call this after each step."""
        if self._profile is None:
            return
        self._profile.step()
        self._left -= 1
        if not self._left:
            self.close()
            if any(path.is_file() for path in self._directory.rglob("*")):
                logger.info("trace written to %s", self._directory)
            else:
                logger.warning("mindspore.profiler wrote no trace to %s", self._directory)

    def close(self) -> None:
        """Ends an unfinished trace."""
        if self._profile:
            self._profile.stop()
            self._profile = None
