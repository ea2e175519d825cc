"""Runs one process of a job for msrun and records what msrun does not report.

    python scripts/rank.py DIRECTORY PROGRAM ARGUMENT…

At the start a line "NAME PROCESS_ID" is appended to DIRECTORY/processes; when a rank has ended, "NAME CODE" to
DIRECTORY/codes, where CODE is 128 + the signal's number after a signal, as in shells. SIGINT and SIGTERM are passed on to
the program.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

STOPPED = (130, 143)  # exit codes of a program that was stopped by a signal and saved its state


def main(directory: str, *program: str) -> int:
    command = [sys.executable, *program]
    if os.environ["MS_ROLE"] == "MS_SCHED":
        _append(directory, "processes", f"scheduler {os.getpid()}")
        os.execv(command[0], command)
    name = f"worker_{os.environ['MS_NODE_ID']}"
    process, early = None, []

    def pass_on(number: int, _) -> None:
        early.append(number) if process is None else process.send_signal(number)

    # Set before the program starts, which would inherit an ignored signal.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    _append(directory, "processes", f"{name} {os.getpid()}")
    process = subprocess.Popen(command)
    for number in early:
        process.send_signal(number)
    ended = process.wait()
    code = ended if ended >= 0 else 128 - ended
    _append(directory, "codes", f"{name} {code}")
    # At any other code msrun kills the other ranks, which may still be saving.
    return 0 if ended in STOPPED else code


def _append(directory: str, file: str, line: str) -> None:
    with open(Path(directory, file), "a", encoding="utf-8") as lines:
        lines.write(line + "\n")


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
