"""Signals reach Python's handlers, even while MindSpore runs a graph, and a training waits for its step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from coupalign.files import REPOSITORY
from coupalign.training.stopping import Stopped, StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_a_graph_arrives_as_itself(number):
    with subprocess.Popen(
        [sys.executable, "-m", "tests.busy_graph"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "busy\n"
        process.send_signal(number)
        assert process.stdout.readline() == f"received {int(number)}\n"
    assert process.returncode == 0


def test_a_signal_without_a_handler_ends_the_process():
    program = (
        "import time; from coupalign.signals import take_signals; take_signals(); print('ready', flush=True)\n"
        "while True: time.sleep(0.02)"
    )
    for number, expected in ((signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)):
        # Without preexec_fn, Ctrl-C would be ignored where the tests are a job in the background of a script.
        with subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(number)
            assert process.wait(30) == expected


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_request_to_stop_waits_where_it_should(number, code):
    seen = []
    before = signal.signal(number, lambda *_: seen.append("as before"))
    try:
        with StopRequest() as request:
            request.check()
            os.kill(os.getpid(), number)
            with pytest.raises(Stopped) as stopped:
                request.check()
            assert stopped.value.code == code and not seen
            os.kill(os.getpid(), number)
            assert seen == ["as before"], "a second one is not waited for"
        with StopRequest() as request, pytest.raises(Stopped), request.interrupting():
            os.kill(os.getpid(), number)
            pytest.fail("not interrupted")
        os.kill(os.getpid(), number)
        assert len(seen) == 2
    finally:
        signal.signal(number, before)
