"""A trace of a few steps."""

from __future__ import annotations

from pathlib import Path

from mindspore import profiler
from mindspore.profiler import ProfilerActivity

SKIPPED = 3  # steps of a start that are not like the others: one compiles, the next ones fill caches
ACTIVITIES = {
    "CPU": [ProfilerActivity.CPU],
    "GPU": [ProfilerActivity.CPU, ProfilerActivity.GPU],
    "Ascend": [ProfilerActivity.CPU, ProfilerActivity.NPU],
}


class Trace:
    """Lets mindspore.profiler watch steps SKIPPED + 1 … SKIPPED + `steps` of this start.

    Args:
        steps: their number; 0 is none.
        device: ``device_target``.
        directory: what it writes; each start a directory of its own.
    """

    def __init__(self, steps: int, device: str, directory: Path):
        self._steps = steps
        self._device = device
        self._directory = directory
        self._seen = 0
        self._profile = None

    def step(self) -> None:
        """To be called after each step."""
        self._seen += 1
        if self._profile:
            self._profile.step()
        if self._steps and self._seen == SKIPPED:
            self._profile = profiler.profile(
                activities=ACTIVITIES[self._device],
                schedule=profiler.schedule(wait=0, warmup=0, active=self._steps, repeat=1),
                on_trace_ready=profiler.tensorboard_trace_handler(str(self._directory)),
            )
        elif self._profile and self._seen == SKIPPED + self._steps:
            self.close()
            written = any(path.is_file() for path in self._directory.rglob("*"))
            print(
                f"trace of {self._steps} steps written to {self._directory}"
                if written
                else f"warning: mindspore.profiler wrote no trace to {self._directory}",
                flush=True,
            )

    def close(self) -> None:
        """Ends a trace that is under way."""
        if self._profile:
            self._profile.stop()
            self._profile = None
