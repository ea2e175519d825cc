"""What a run shows of itself: events as TensorBoard reads them, lines of JSON, times, pictures, curves, a trace."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys

import cv2
import numpy as np
import pytest
from mindspore import Tensor, nn
from tensorboardX.proto.event_pb2 import Event, SessionLog

from coupalign.config import load_config
from coupalign.context import set_up
from coupalign.data.dataset import Split
from coupalign.data.images import load_image
from coupalign.data.transform import prepare_image, restore_image
from coupalign.errors import UserError
from coupalign.evaluation.evaluate import evaluate_split
from coupalign.files import REPOSITORY
from coupalign.training.monitor import EPOCH_COLUMNS, LOSSES, STEP_COLUMNS, Monitor
from coupalign.training.pictures import Pictures
from coupalign.training.stopwatch import PARTS, Stopwatch
from coupalign.training.trace import SKIPPED, Trace
from coupalign.visual.curves import draw_curves, save_curves
from tests.conftest import TINY

STEP_TAGS = {
    "train/loss",
    "train/segmentation_loss",
    "train/auxiliary_loss",
    "train/learning_rate",
    "train/skipped",
    "time/data_ms",
    "time/step_ms",
    "time/host_ms",
}


def step_figures(step, loss=0.5):
    return {
        **dict(zip(STEP_COLUMNS, [step, loss, loss / 2, loss / 4, 1 / step, int(not math.isfinite(loss))])),
        "epoch": 1 + (step - 1) // 4,
        **dict(zip(PARTS, (1.0, 2.0, 3.0))),
    }


def epoch_figures(epoch):
    return {
        "epoch": epoch,
        "step": 4 * epoch,
        "samples": 8 * epoch,
        **dict.fromkeys(LOSSES, 0.5),
        "oIoU": 0.25 * epoch,
        "mIoU": 0.125 * epoch,
        "prec@0.5": 0.0,
        "samples_per_second": 10.0,
    }


def run(directory, steps, source=None, last=0):
    """Tells of steps, four an epoch."""
    monitor = Monitor(directory, True, source, last, last // 4)
    picture = np.zeros((4, 12, 3), np.uint8)
    picture[0, 0] = 255, 0, 0
    for step in steps:
        monitor.step(step_figures(step))
        if step % 4 == 0:
            monitor.epoch(epoch_figures(step // 4), [(f"{step}: a shape", picture)])
    monitor.flush()
    return monitor


def crc32c(data):
    """Castagnoli's, bit by bit, masked as in TFRecord files."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_events(directory):
    """What TensorBoard shows: {tag: {step: value}}, and how often it was told of a step that it knew."""
    shown, repeated = {}, 0
    for file in sorted(directory.iterdir()):
        assert "tfevents" in file.name
        content, events = file.read_bytes(), []
        while content:
            length, check = struct.unpack("<QI", content[:12])
            data = content[12 : 12 + length]
            assert check == crc32c(content[:8])
            assert struct.unpack("<I", content[12 + length : 16 + length]) == (crc32c(data),)
            events.append(Event.FromString(data))
            content = content[16 + length :]
        assert events[0].file_version == "brain.Event:2"
        for event in events[1:]:
            if event.session_log.status == SessionLog.START:
                shown = {
                    tag: {step: each for step, each in values.items() if step < event.step}
                    for tag, values in shown.items()
                }
            for value in event.summary.value:
                repeated += event.step in shown.setdefault(value.tag, {})
                shown[value.tag][event.step] = value
    return shown, repeated


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def test_tensorboard_shows_each_step_once_though_a_run_went_on_twice(directory):
    run(directory, range(1, 11)).close()
    run(directory, range(7, 10), directory, 6)  # killed, after a checkpoint at step 6; and not closed
    run(directory, range(9, 13), directory, 8).close()
    shown, repeated = read_events(directory / "tensorboard")
    assert repeated == 0
    for tag in STEP_TAGS:
        assert sorted(shown[tag]) == list(range(1, 13)), tag
    assert {step: each.simple_value for step, each in shown["validation/oIoU"].items()} == {4: 0.25, 8: 0.5, 12: 0.75}
    assert shown["train/learning_rate"][8].simple_value == pytest.approx(1 / 8)
    image = shown["validation/12: a shape"][12].image
    decoded = cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert (image.height, image.width) == decoded.shape[:2] == (4, 12)
    assert decoded[0, 0].tolist() == [0, 0, 255] and decoded.sum() == 255  # red, in OpenCV's order


def test_every_line_of_the_log_is_json_of_finite_numbers(directory):
    monitor = Monitor(directory, False)
    for step, loss in enumerate((0.5, math.nan, math.inf), 1):
        monitor.step(step_figures(step, loss))
    monitor.epoch({**epoch_figures(1), "oIoU": -math.inf})
    assert not (directory / "tensorboard").exists()

    def never(constant):
        pytest.fail(f"{constant} is no JSON")

    lines = [json.loads(line, parse_constant=never) for line in (directory / "log.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["step"], line["loss"]) for line in lines] == [
        ("step", 1, 0.5),
        ("step", 2, None),
        ("step", 3, None),
        ("epoch", 4, 0.5),
    ]
    assert lines[0]["data_ms"] == 1.0 and lines[0]["time"] > 1e9 and lines[3]["oIoU"] is None
    assert (directory / "steps.csv").read_text().splitlines()[2].split(",")[1:4] == ["nan"] * 3


def test_a_run_that_goes_on_elsewhere_takes_its_log_along(directory, tmp_path):
    run(directory, range(1, 11)).close()
    (tmp_path / "branch").mkdir()
    run(tmp_path / "branch", [7], directory, 6).close()
    for name in ("steps.csv", "curve.csv"):
        old, new = (each.joinpath(name).read_text().splitlines() for each in (directory, tmp_path / "branch"))
        assert new == (old[:8] if name == "steps.csv" else old[:2])
    lines = [json.loads(line) for line in (tmp_path / "branch/log.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["step"]) for line in lines] == [
        *(("step", step) for step in (1, 2, 3, 4)),
        ("epoch", 4),
        *(("step", step) for step in (5, 6, 7)),
    ]


def test_parts_of_a_step_add_up_and_the_first_is_left_out():
    now = 0.0

    def passing(seconds):
        nonlocal now
        now += seconds

    def batches():
        for wait in (0.5, 0.25, 0.0, 0.125, 0.125, 0.25):
            passing(wait)
            yield wait

    watch = Stopwatch(lambda: now)
    passing(100)  # before the first step
    watch.start()
    source, laps = watch.waiting(batches()), []
    for compiling in (20.0, 0.0, 0.0):
        passing(0.0625)  # on the host
        with watch.working():
            for _ in range(2):  # two micro batches, asked for within the step
                next(source)
                passing(1.0)
            passing(compiling)
        laps.append(watch.lap())
    assert laps == [dict(zip(PARTS, each)) for each in ((750, 22000, 62.5), (125, 2000, 62.5), (375, 2000, 62.5))]
    assert watch.means() == dict(zip(PARTS, (250, 2000, 62.5)))
    assert watch.means() == {} and watch.seconds_per_step() == 2.3125
    assert list(source) == []


def test_pictures_show_input_target_and_prediction_of_the_same_samples(tiny_data):
    config = load_config(overrides={**TINY, "dataset": "refshapes", "data_dir": str(tiny_data), "sentences": "all"})
    split = Split(config, "train")

    def forward(image, token_ids, token_mask):
        """The right half of each image."""
        logits = np.full((image.shape[0], 64, 64), -9, np.float32)
        logits[:, :, 32:] = 9
        return Tensor(logits)

    drawn = []
    for _ in range(2):
        pictures = Pictures(config, split)
        evaluate_split(forward, config, split, "train", 100, progress=False, show=pictures)
        drawn.append(pictures.drawn)
    assert [name for name, _ in drawn[0]] == [name for name, _ in drawn[1]] and len(drawn[0]) == 4
    samples = list(split.samples(range(100), 1))
    images = set()
    for name, picture in drawn[0]:
        row, expression = name.split(": ")
        images.add(int(split.records["image_id"][int(row)]))
        assert expression == split.records["expression"][int(row)] and picture.shape == (64, 192, 3)
        rgb, target, predicted = np.split(picture, 3, axis=1)
        wanted = samples[int(row)]["input_target"]
        assert (rgb == target)[~wanted].all() and not (rgb == target).all(-1)[wanted].any()
        assert (rgb == predicted)[:, :32].all() and not (rgb == predicted).all(-1)[:, 32:].any()
    assert len(images) == 4


def test_an_image_is_restored(tmp_path):
    rgb = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "image.png"), rgb)
    np.testing.assert_array_equal(restore_image(prepare_image(load_image(tmp_path / "image.png"), 64)), rgb[..., ::-1])


def curves(directory, steps=300, offset=0.0):
    """The tables of a run of 60 steps an epoch, with a loss that falls linearly."""
    directory.mkdir(exist_ok=True)
    load_config(overrides={"batch_size": 2, "dataset": "refshapes"}).save(directory / "config.yaml")
    monitor = Monitor(directory, False)
    for step in range(1, steps + 1):
        monitor.step({**step_figures(step, math.nan if step == 50 else 4 + offset - step / 100)})
        if step % 60 == 0:
            figures = {**epoch_figures(step // 60), "step": step, "samples": 2 * step}
            monitor.epoch(figures if step % 120 == 0 else {key: figures[key] for key in EPOCH_COLUMNS[:3]})
    return directory


def test_curves_have_the_figures_of_the_tables(tmp_path):
    one, two = curves(tmp_path / "one"), curves(tmp_path / "two", 30, offset=1.0)
    figure = draw_curves([one, two])
    panels = {axis.get_title(): axis for axis in figure.axes}
    loss = {
        line.get_label(): line.get_xydata() for line in panels["loss"].lines if not line.get_label().startswith("_")
    }
    assert set(loss) == {"one", "two"} and len(loss["one"]) < 60 and len(loss["two"]) == 30
    for name, offset in (("one", 0.0), ("two", 1.0)):
        samples, values = loss[name].T
        np.testing.assert_allclose(values, 4 + offset - samples / 2 / 100, atol=1e-9)
    scores = {line.get_label(): line.get_xydata() for line in panels["oIoU and mIoU on val_split, %"].lines}
    assert scores["one: oIoU"].tolist() == [[240, 50], [480, 100]]
    assert "synthetic" in figure.get_suptitle()
    save_curves([one], tmp_path / "curve.png")
    picture = cv2.imread(str(tmp_path / "curve.png"))
    assert picture.shape[0] > 500 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    with pytest.raises(UserError, match="nowhere holds no run"):
        draw_curves([tmp_path / "nowhere"])


def test_curves_need_no_mindspore():
    code = "import sys, coupalign.visual.curves; sys.exit('mindspore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


class Square(nn.Cell):
    def construct(self, x):
        return x * x + 1


def test_a_trace_of_a_few_steps_is_written_and_work_goes_on(tmp_path, capfd):
    set_up(load_config())
    cell, x = Square(), Tensor(np.ones((4, 4), np.float32))
    trace = Trace(2, "CPU", tmp_path / "profile")
    for step in range(SKIPPED + 4):
        assert bool(os.path.isdir(tmp_path / "profile") and any((tmp_path / "profile").rglob("*.json"))) == (
            step >= SKIPPED + 2
        )
        assert cell(x).asnumpy().sum() == 32
        trace.step()
    trace.close()
    (file,) = (tmp_path / "profile").rglob("trace_view.json")
    assert sum(event["ph"] == "X" and "Mul" in event["name"] for event in json.loads(file.read_text())) == 2
    assert "trace of 2 steps written to" in capfd.readouterr().out
    idle = Trace(0, "CPU", tmp_path / "none")
    for _ in range(SKIPPED + 2):
        idle.step()
    assert not (tmp_path / "none").exists()


def test_a_full_disk_is_met_where_it_is_written_to(directory):
    """/dev/full takes nothing. A thread that wrote events would die of it, unheard."""
    for name in ("steps.csv", "log.jsonl"):
        monitor = Monitor(directory, True)
        (directory / name).unlink()
        (directory / name).symlink_to("/dev/full")
        with pytest.raises(OSError, match="No space left"):
            monitor.step(step_figures(1))
        (directory / name).unlink()
    monitor = Monitor(directory, True)
    monitor._events._file._writer = open("/dev/full", "wb")  # noqa: SIM115
    monitor.step(step_figures(1))
    with pytest.raises(OSError, match="No space left"):
        monitor.flush()
    monitor.close()
