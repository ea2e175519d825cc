"""What a run logs: events as TensorBoard reads them, JSON lines, step times, pictures, a trace."""

from __future__ import annotations

import json
import math
import struct

import cv2
import numpy as np
import pytest
from mindspore import Tensor, nn
from tensorboardX.proto.event_pb2 import Event, SessionLog

from coupalign.checkpoints.state import Progress
from coupalign.config import load_config
from coupalign.data.dataset import Split
from coupalign.data.transform import prepare_image, restore_image
from coupalign.devices import set_up
from coupalign.evaluation.evaluate import evaluate_split
from coupalign.training.console import losses_line
from coupalign.training.events import Events
from coupalign.training.pictures import Pictures
from coupalign.training.profiler import SKIPPED, StepProfiler
from coupalign.training.run_directory import STEP_COLUMNS, STEP_TAGS, RunDirectory
from coupalign.training.step import ADDED_LOSSES, LOSSES
from coupalign.training.step_timer import TIME_COLUMNS, StepTimer
from tests.conftest import TINY


def step_figures(step, loss=0.5):
    return {
        **dict(zip(STEP_COLUMNS, [step, loss, loss / 2, loss / 4, 1 / step, int(not math.isfinite(loss))])),
        "epoch": 1 + (step - 1) // 4,
        **dict.fromkeys(ADDED_LOSSES, 0.125),
        **dict(zip(TIME_COLUMNS, (1.0, 2.0, 3.0))),
    }


def epoch_figures(epoch):
    scores = {"oIoU": 0.25 * epoch, "mIoU": 0.125 * epoch, "prec@0.5": 0.0}
    return {"epoch": epoch, "step": 4 * epoch, "samples": 8 * epoch, **dict.fromkeys(LOSSES, 0.5), **scores}


def open_run(directory, source=None, last=0, tracker="tensorboard"):
    """The directory of a run of four steps an epoch, resumed after step `last` of the run in `source`."""
    config = load_config(overrides={"output_dir": str(directory), "tracker": tracker})
    state = source and (source / "last.ckpt", {}, Progress({}, "", step=last, epochs=last // 4))
    return RunDirectory(config, state)


def log(directory, steps, source=None, last=0):
    run = open_run(directory, source, last)
    picture = np.zeros((4, 12, 3), np.uint8)
    picture[0, 0] = 255, 0, 0
    for step in steps:
        run.log_step(step_figures(step))
        if step % 4 == 0:
            run.log_epoch(epoch_figures(step // 4), [(f"{step}: a shape", picture)])
    return run


def read_events(directory):
    """What TensorBoard shows, {tag: {step: value}}, and how many values came for a step that already had one."""
    shown, repeated = {}, 0
    for file in sorted(directory.iterdir()):
        assert "tfevents" in file.name
        content, events = file.read_bytes(), []
        while content:
            (length,) = struct.unpack("<Q", content[:8])  # then a checksum, the event and a checksum
            events.append(Event.FromString(content[12 : 12 + length]))
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


def test_tensorboard_shows_each_step_once_after_two_resumes(tmp_path):
    with log(tmp_path, range(1, 11)):
        pass
    with log(
        tmp_path, range(7, 10), tmp_path, 6
    ):  # after a checkpoint at step 6; it is still there when the next starts
        log(tmp_path, range(9, 13), tmp_path, 8)
    shown, repeated = read_events(tmp_path / "tensorboard")
    assert repeated == 0
    for tag in STEP_TAGS.values():
        assert sorted(shown[tag]) == list(range(1, 13)), tag
    assert {step: each.simple_value for step, each in shown["validation/oIoU"].items()} == {4: 0.25, 8: 0.5, 12: 0.75}
    assert shown["train/object_loss"][8].simple_value == 0.125
    assert shown["train/learning_rate"][8].simple_value == pytest.approx(1 / 8)
    image = shown["validation/12: a shape"][12].image
    decoded = cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert (image.height, image.width) == decoded.shape[:2] == (4, 12)
    assert decoded[0, 0].tolist() == [0, 0, 255] and decoded.sum() == 255  # red, in OpenCV's order


def test_the_console_names_each_loss_with_its_factor():
    losses = load_config(overrides={"object_loss_weight": 2.0, "choice_loss_weight": 0.5}).losses
    figures = {"loss": 4.0, "segmentation_loss": 1.0, "auxiliary_loss": 5.0, "learning_rate": 0.1}
    assert losses_line(figures, losses) == "loss 4.0000 = seg 1.0000 + 0.1 aux 5.0000, lr 1.00e-01"
    line = losses_line({**figures, "object_loss": 1.0, "choice_loss": 0.75, "existence_loss": 1.25}, losses)
    assert "+ 2 object 1.0000 + 0.5 choice 0.7500 + 0.1 existence 1.2500" in line


def test_times_of_a_step_add_up_and_means_leave_out_the_first():
    now = 0.0

    def passing(seconds):
        nonlocal now
        now += seconds

    def batches():
        for wait in (0.5, 0.25, 0.0, 0.125, 0.125, 0.25):
            passing(wait)
            yield wait

    timer = StepTimer(lambda: now)
    passing(100)  # before the first step
    timer.start()
    source, laps = timer.waiting(batches()), []
    for compiling in (20.0, 0.0, 0.0):
        passing(0.0625)  # on the host
        with timer.working():
            for _ in range(2):  # two micro batches, requested within the step
                next(source)
                passing(1.0)
            passing(compiling)
        laps.append(timer.lap())
    assert laps == [
        dict(zip(TIME_COLUMNS, each)) for each in ((750, 22000, 62.5), (125, 2000, 62.5), (375, 2000, 62.5))
    ]
    assert timer.epoch_means() == dict(zip(TIME_COLUMNS, (250, 2000, 62.5)))
    assert timer.epoch_means() == {} and list(source) == []


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
        pictures = Pictures(split.records, 0.5)
        evaluate_split(forward, config, split, "train", 100, progress=False, on_sample=pictures)
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


def test_an_image_is_restored():
    rgb = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(restore_image(prepare_image(rgb, 64)), rgb)


class Square(nn.Cell):
    def construct(self, x):
        return x * x + 1


def test_a_trace_of_a_few_steps_is_written_and_training_continues(tmp_path, caplog):
    set_up(load_config().run)
    caplog.set_level("INFO")
    cell, x = Square(), Tensor(np.ones((4, 4), np.float32))
    profile = StepProfiler(2, "CPU", tmp_path / "profile")
    for _ in range(SKIPPED + 4):
        assert cell(x).asnumpy().sum() == 32
        profile.step()
    profile.close()
    (file,) = (tmp_path / "profile").rglob("trace_view.json")
    assert sum(event["ph"] == "X" and "Mul" in event["name"] for event in json.loads(file.read_text())) == 2
    assert "trace written to" in caplog.text
    idle = StepProfiler(0, "CPU", tmp_path / "none")
    for _ in range(SKIPPED + 2):
        idle.step()
    assert not (tmp_path / "none").exists()


def test_events_on_a_full_disk_raise_and_do_not_block(tmp_path, monkeypatch):
    monkeypatch.setattr("tensorboardX.record_writer.open_file", lambda _: open("/dev/full", "wb"))
    with pytest.raises(OSError, match="No space left"):
        Events(tmp_path, 1)
