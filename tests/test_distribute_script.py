"""run_distribute_*.sh: usage, exit codes, logs and signals, with stand-ins for msrun, train.py and eval.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.script_tree import environment, make_tree

# Like MindSpore's: a failure kills the other ranks, msrun waits for the scheduler, loses exit codes, and Ctrl-C kills.
MSRUN = """#!{python}
import os, signal, subprocess, sys, time
options = dict(item[2:].split("=", 1) for item in sys.argv[1:] if item.startswith("--") and "=" in item)
command = ["python", *sys.argv[next(k for k in range(1, len(sys.argv)) if not sys.argv[k].startswith("--")):]]
print("msrun", *sorted(options.items()), flush=True)
if "--broken" in command:
    sys.exit("cannot start")
count, first = int(options["local_worker_num"]), int(options["node_rank"]) * int(options["local_worker_num"])
scheduler = subprocess.Popen(command, env={{**os.environ, "MS_ROLE": "MS_SCHED"}})
ranks = []
def kill(*_):
    for rank in ranks:
        if rank.poll() is None:
            os.killpg(rank.pid, signal.SIGKILL)
    if _:
        scheduler.kill()
        sys.exit(0)
signal.signal(signal.SIGINT, kill)  # before a rank says that it has started
for number in range(first, first + count):
    with open(options["log_dir"] + f"/worker_{{number}}.log", "w") as log:
        environment = {{**os.environ, "MS_ROLE": "MS_WORKER", "MS_NODE_ID": str(number)}}
        ranks.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True))
while any(rank.poll() is None for rank in ranks) and not any(rank.poll() for rank in ranks):
    time.sleep(0.05)
kill()
scheduler.wait()
sys.exit(int(any(rank.returncode for rank in ranks)))
"""
TRAIN = """
import os, pathlib, signal, sys, time
if "--check" in sys.argv:
    sys.exit("error: batch_size" if "--batch_size=3" in sys.argv else 0)
rank = os.environ.get("MS_NODE_ID")
while os.environ["MS_ROLE"] == "MS_SCHED":
    ended = len(list(pathlib.Path().glob("ended_*")))
    if ended >= 2:
        sys.exit()
    time.sleep(0.05)
print(f"rank {rank} called with", *sys.argv[1:], flush=True)
def stop(number, _):
    time.sleep(0.5 if rank == "0" else 0)  # rank 0 writes a checkpoint
    print(f"rank {rank} saved", flush=True)
    end(128 + number)
def end(code):
    pathlib.Path(f"ended_{rank}").touch()
    os._exit(code)
if "--wait" in sys.argv:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, (lambda *_: pathlib.Path(f"heard_{rank}").touch()) if "--deaf" in sys.argv else stop)
pathlib.Path(f"started_{rank}").touch()
while "--wait" in sys.argv:
    time.sleep(0.05)
if rank == "1" and "--die" in sys.argv:
    print("\\n".join(f"line {k}" for k in range(30)), flush=True)
    code = int(sys.argv[-1])
    os.kill(os.getpid(), -code) if code < 0 else os._exit(code)
while "--die" in sys.argv:
    time.sleep(0.05)
end(0)
"""


@pytest.fixture
def tree(tmp_path):
    """A copy of scripts/ with an environment that has the msrun above, and train.py and eval.py as above."""
    python = f'#!/bin/sh\ncase "$*" in *missing.py*) exit ;; esac\nexec {sys.executable} "$@"\n'
    root = make_tree(tmp_path / "tree", {"python": python, "msrun": MSRUN.format(python=sys.executable)})
    for name in ("train.py", "eval.py"):
        (root / name).write_text(TRAIN)
    return root


def launch(tree: Path, *arguments: str, script: str = "run_distribute_train.sh", **variables: str) -> subprocess.Popen:
    return subprocess.Popen(
        ["bash", str(tree / "scripts" / script), *arguments],
        cwd=tree,
        env=environment(tree, **variables),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def logs(tree: Path) -> Path:
    (directory,) = (tree / "logs").iterdir()
    return directory


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("", "DEVICE"),
        ("CPU 2 c.yaml --resume auto", "DATA_DIR"),
        ("TPU 2 c.yaml data", "TPU"),
        ("CPU two c.yaml data", "COUNT is two"),
        ("CPU 0 c.yaml data", "COUNT is 0"),
        ("CPU 2 none.yaml data", "none.yaml"),
        ("CPU 2 c.yaml nowhere", "nowhere"),
        ("CPU 2 c.yaml data --nodes 2", "--master"),
        ("CPU 2 c.yaml data --nodes=2 --node_rank=2 --master h", "--node_rank is 2"),
        ("CPU 2 c.yaml data --nodes 2 --node_rank", "--node_rank"),
        ("CPU 2 c.yaml data --node_rank x", "--node_rank is x"),
        ("CPU 2 c.yaml data --master h:80", "1024"),
        ("CPU 2 c.yaml data --time_out soon", "--time_out is soon"),
        ("CPU 2 c.yaml data --nodes 2 --master localhost", "localhost resolves to 127."),
        ("CPU 2 c.yaml data --nodes 2 --master host.invalid", "host.invalid"),
    ],
)
def test_mistakes_are_named_before_any_rank_starts(tree, arguments, named):
    process = launch(tree, *arguments.split())
    error = process.communicate(timeout=60)[1].splitlines()[0]
    assert process.returncode == 2 and error.startswith("error: ") and named in error
    assert not (tree / "logs").exists()


@pytest.mark.parametrize(("program", "file"), [("train", "--config {}/c.yaml"), ("eval", "--checkpoint {}/b.ckpt")])
def test_all_ranks_run_and_the_output_of_rank_0_is_shown(tree, program, file):
    file, script = file.format(tree), f"run_distribute_{program}.sh"
    process = launch(tree, "GPU", "2", file.split("/")[-1], "data", "--time_out=9", "--seed=3", script=script)
    output, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")
    called = f"called with {file} --data_dir {tree}/data --device_target GPU --seed=3"
    assert output.splitlines()[1:] == [f"rank 0 {called}"]
    assert (logs(tree) / "worker_1.log").read_text() == f"rank 1 {called}\n"
    started = (logs(tree) / "msrun.log").read_text()
    for option in ("('worker_num', '2')", "('cluster_time_out', '9')", "('master_addr', '127.0.0.1')"):
        assert option in started


@pytest.mark.parametrize(
    ("device", "visible", "named"),
    [
        ("GPU", {"CUDA_VISIBLE_DEVICES": "4,5"}, "COUNT is 3, but CUDA_VISIBLE_DEVICES=4,5 shows 2 devices"),
        ("GPU", {"CUDA_VISIBLE_DEVICES": "4,-1,5,6"}, "shows 1 devices"),
        ("Ascend", {"ASCEND_RT_VISIBLE_DEVICES": "0,1"}, "ASCEND_RT_VISIBLE_DEVICES=0,1 shows 2 devices"),
        ("Ascend", {"ASCEND_RT_VISIBLE_DEVICES": ""}, "shows 0 devices"),
        ("Ascend", {"ASCEND_RT_VISIBLE_DEVICES": "0, 1,2"}, "'0, 1,2': give numbers and commas only"),
    ],
)
def test_more_ranks_than_visible_devices_are_refused_before_any_starts(tree, device, visible, named):
    process = launch(tree, device, "3", "c.yaml", "data", **visible)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 2 and error.startswith("error: ") and named in error
    assert not (tree / "logs").exists()


@pytest.mark.parametrize(
    ("device", "variable"), [("GPU", "CUDA_VISIBLE_DEVICES"), ("Ascend", "ASCEND_RT_VISIBLE_DEVICES")]
)
def test_a_subset_of_the_devices_is_used(tree, device, variable):
    other = {"GPU": "ASCEND_RT_VISIBLE_DEVICES", "Ascend": "CUDA_VISIBLE_DEVICES"}[device]
    process = launch(tree, device, "2", "c.yaml", "data", **{variable: "5,7", other: ""})
    assert process.communicate(timeout=60)[1] == "" and process.returncode == 0


@pytest.mark.parametrize(("program", "file"), [("train", "c.yaml"), ("eval", "b.ckpt")])
def test_a_failed_check_starts_no_rank(tree, program, file):
    process = launch(tree, "CPU", "2", file, "data", "--batch_size=3", script=f"run_distribute_{program}.sh")
    assert process.communicate(timeout=60)[1] == "error: batch_size\n"
    assert process.returncode == 1 and not (tree / "logs").exists()


def test_only_the_first_of_several_machines_shows_progress(tree):
    (tree / "ended_0").touch()  # by another machine
    (tree / "ended_2").touch()
    process = launch(tree, "CPU", "1", "c.yaml", "data", "--nodes=3", "--node_rank=1", "--master=192.0.2.1:7000")
    output, error = process.communicate(timeout=60)
    assert process.returncode == 0 and len(output.splitlines()) == 1, error
    started = (logs(tree) / "msrun.log").read_text()
    for option in (
        "('worker_num', '3')",
        "('local_worker_num', '1')",
        "('master_addr', '192.0.2.1')",
        "('master_port', '7000')",
        "('node_rank', '1')",
    ):
        assert option in started
    assert logs(tree).name.endswith("_node1"), "machines may share the repository"


@pytest.mark.parametrize(("code", "expected"), [(7, 7), (2, 2), (-signal.SIGKILL, 137), (-signal.SIGSEGV, 139)])
def test_a_rank_that_fails_ends_the_job_with_its_code_and_its_last_lines(tree, code, expected):
    process = launch(tree, "CPU", "2", "c.yaml", "data", "--die", str(code))
    error = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == expected
    assert error[0] == f"error: worker_1 ended with exit code {expected}; the end of {logs(tree)}/worker_1.log:"
    assert error[1:] == [f"line {k}" for k in range(10, 30)]


@pytest.mark.parametrize(("number", "to_all", "code"), [(signal.SIGTERM, False, 143), (signal.SIGINT, True, 130)])
def test_a_stop_lets_every_rank_save_before_it_ends(tree, number, to_all, code):
    process = launch(tree, "CPU", "2", "c.yaml", "data", "--wait")
    _wait_for_ranks(tree)
    (os.killpg if to_all else os.kill)(process.pid, number)
    output, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (code, "")
    assert output.splitlines()[-1] == "rank 0 saved"
    assert (logs(tree) / "worker_1.log").read_text().splitlines()[-1] == "rank 1 saved"


def test_a_second_signal_kills_ranks_that_do_not_stop(tree):
    process = launch(tree, "CPU", "2", "c.yaml", "data", "--wait", "--deaf")
    _wait_for_ranks(tree)
    os.killpg(process.pid, signal.SIGINT)
    _wait_for_ranks(tree, "heard")
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130


def test_msrun_that_cannot_start_is_a_failure(tree):
    process = launch(tree, "CPU", "2", "c.yaml", "data", "--broken")
    error = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == 1 and error[-1] == "cannot start"
    assert error[0].startswith("error: msrun ended with exit code 1 before all ranks did")


def _wait_for_ranks(tree: Path, done: str = "started") -> None:
    while not ((tree / f"{done}_0").exists() and (tree / f"{done}_1").exists()):
        time.sleep(0.02)
