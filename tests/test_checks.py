"""Commands find missing inputs and unwritable outputs before importing MindSpore, and read only keys they offer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TINY

RUN_ALL = """
import contextlib, importlib, io, json, os, sys
results = []
for words in json.load(sys.stdin):
    variables = [word for word in words if "=" in word]
    name, *arguments = [word for word in words if word not in variables]
    os.environ.update({"MS_WORKER_NUM": "1", "RANK_SIZE": "1", "OMPI_COMM_WORLD_SIZE": "1", **dict(each.split("=") for each in variables)})
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        code = importlib.import_module(f"coupalign.commands.{name}").main(arguments)
    results.append([code, errors.getvalue(), "mindspore" in sys.modules])
print(json.dumps(results))
"""
MODEL = ["--checkpoint", "best.ckpt"]
PREDICT = ["predict", *MODEL, "--expression", "a cup", "--image", "a.png"]
PRETRAIN = ["pretrain", "--output", "out.ckpt"]
FAILURES = [
    (["train", "--data_dir", "nowhere"], "nowhere/meta.json"),
    (["train", "--train_split", "tram"], "no split 'tram'"),
    (["train", "--vocab_file", "none.txt"], "none.txt"),
    (["train", "--init_checkpoint", "none.ckpt"], "no checkpoint none.ckpt"),
    (["train", "--resume", "none.ckpt"], "no checkpoint none.ckpt"),
    (["train", "--output_dir", "a.png/run"], "a.png is a file"),
    (["train", "--output_dir", "run"], "run already holds a run"),
    (["train", "MS_WORKER_NUM=3"], "batch_size 2 does not divide among 3 devices"),
    (["train", "--check", "4"], "batch_size 2 does not divide among 4 devices"),
    (["train", "--accumulation_steps", "4"], "accumulation_steps 4"),
    (["train", "--check", "0"], "--check is 0"),
    (["train", "--batch_size", "500"], "has 300 samples, fewer than batch_size 500"),
    (["train", "--warmup_steps", "3750"], "warmup_steps 3750 leaves none of the 3750 steps of decay_epochs 25"),
    (["train", "--train_sentences", "random", "--batch_size", "108"], "has 106 samples, fewer than batch_size 108"),
    (["train", "--epochs", "1", "--warmup_steps", "9"], "decay_epochs to 1 or less, and warmup_steps 9 below"),
    (["train", "--image_size", "65", "--threshold", "0", "--precision", "bf16"], "multiple of 32"),
    (["train", "RANK_SIZE=8"], "RANK_SIZE is 8"),
    (["eval", "--checkpoint", "none.ckpt"], "no checkpoint none.ckpt"),
    (["eval", "--checkpoint", "a.png"], "a.png is not a checkpoint"),
    (["eval", *MODEL, "--eval_splits", "val,none"], "no split 'none'"),
    (["eval", *MODEL, "--output", "a.png"], "a.png is a file"),
    (["eval", *MODEL, "--epochs", "3"], "--epochs is not used"),
    (["eval", *MODEL, "RANK_SIZE=8"], "RANK_SIZE is 8"),
    ([*PRETRAIN, "OMPI_COMM_WORLD_SIZE=2"], "OMPI_COMM_WORLD_SIZE is 2"),
    (["eval", *MODEL, "--check", "--max_tokens", "9"], "max_tokens"),
    ([*PREDICT, "--checkpoint", "none.ckpt"], "no checkpoint none.ckpt"),
    ([*PREDICT, "--image", "none.png"], "none.png: check --image"),
    ([*PREDICT, "--output", "a.png"], "a.png is a file"),
    ([*PREDICT, "--vocab_file", "none.txt"], "none.txt"),
    (["export", *MODEL, "--file_name", "a.png/x.mindir"], "a.png is a file"),
    (["export", *MODEL, "--vocab_file", "none.txt"], "none.txt"),
    (["demo", "--checkpoint", "none.ckpt"], "no checkpoint none.ckpt"),
    (["pretrain", "--output", "a.png/out.ckpt"], "a.png is a file"),
    ([*PRETRAIN, "--init_checkpoint", "none.ckpt"], "no checkpoint none.ckpt"),
    ([*PRETRAIN, "--scenes", "1"], "--scenes 1"),
    ([*PRETRAIN, "--scenes", "8", "--decay_epochs", "2", "--warmup_steps", "4"], "warmup_steps 4 leaves none of the 4"),
    ([*PRETRAIN, "--train_split", "train"], "--train_split is not used"),
    ([*PRETRAIN, "--resume", "auto"], "--resume is not used"),
    ([*PRETRAIN, "MS_WORKER_NUM=3"], "batch_size 2 does not divide"),
    (["preprocess", "--mindir_path", "none.mindir"], "none.mindir: check --mindir_path"),
    (["preprocess", "--mindir_path", "a.png", "--split", "none"], "no split 'none'"),
    (["postprocess", "--result_path", "none"], "none: check --result_path"),
    (["convert_weights", "--swin", "none.pth", "--output", "out.ckpt"], "none.pth: check --swin"),
    (["visualise", "data", "--data_dir", "nowhere"], "nowhere/meta.json"),
    (["prepare_data", "--annotations", "none", "--images", ".", "--dataset", "refcoco"], "none: check --annotations"),
    (["visualise", "alignment", *MODEL, "--image", "none.png", "--expression", "x"], "none.png: check --image"),
    (["visualise", "alignment", *PREDICT[1:], "--output", "b.jpg"], "--output b.jpg"),
    (["visualise", "curves", "none"], "none: check the runs"),
    (
        ["convert_annotations", "--from", "coco", "--annotations", "none", "--output", "new"],
        "none: check --annotations",
    ),
    (["convert_annotations", "--from", "coco", "--annotations", "config.yaml", "--output", "a.png"], "a.png"),
    (["export", "--checkpoint", "a.png"], "a.png is not a checkpoint"),
    (["export", *MODEL, "--file_name", "graph.onnx"], "graph.onnx"),
    (["export", *MODEL, "--export_batch_size", "0"], "--export_batch_size is 0"),
    (["export", "--file_name", "a.mindir"], "--checkpoint"),
    (["demo", "--engine", "lite"], "--engine lite and --mindir FILE belong together"),
    (["demo", "--mindir", "x.mindir"], "--engine lite and --mindir FILE belong together"),
    (["demo", "--engine", "lite", "--mindir", "x.mindir"], "no file or directory x.mindir"),
]


@pytest.fixture
def workplace(tmp_path, tiny_data, monkeypatch):
    """A working directory with an image, an empty checkpoint beside its configuration, and a run."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "best.ckpt", "run/curve.csv"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    text = json.dumps({**TINY, "dataset": "refshapes", "data_dir": str(tiny_data), "output_dir": "new"})
    Path("config.yaml").write_text(text)
    return tmp_path


def run_commands(*commands: list[str]) -> list[tuple[int, str, bool]]:
    """Exit code, stderr and whether MindSpore was imported, of commands in one fresh process."""
    # These find config.yaml beside the checkpoint, or have no configuration.
    alone = ("demo", "visualise", "eval", "predict", "export", "convert_annotations")
    words = [each if each[0] in alone else [*each, "--config", "config.yaml"] for each in commands]
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL], input=json.dumps(words), stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def test_mistakes_are_found_before_mindspore_is_imported(workplace):
    before = sorted(workplace.rglob("*"))
    results = run_commands(*(arguments for arguments, _ in FAILURES))
    for (arguments, message), (code, errors, loaded) in zip(FAILURES, results):
        assert code == 2 and not loaded, (arguments, errors)
        assert errors.startswith("error: ") and errors.count("\n") == 1 and message in errors, (arguments, errors)
    assert sorted(workplace.rglob("*")) == before


def test_training_and_evaluation_are_checked_without_starting_them(workplace):
    checks = ["train", "--check", "2", "RANK_SIZE=8"], ["eval", *MODEL, "--check", "RANK_SIZE=8"]
    assert run_commands(*checks) == [[0, "", False]] * 2
    assert not Path("new").exists()
