"""The gallery of an evaluation: choice of cases, their masks, the picture and the HTML page."""

from __future__ import annotations

import copy
import json
import re
import shutil

import mindspore
import numpy as np
import pytest
from matplotlib.text import Text

import visualise
from coupalign.config import load_config
from coupalign.data.dataset import Split
from coupalign.data.images import load_image
from coupalign.errors import UserError
from coupalign.evaluation.evaluate import evaluate_split
from coupalign.files import sha256
from coupalign.inference.predictor import Predictor
from coupalign.visual.cases import Case, choose, predict_cases
from coupalign.visual.evaluations import read_evaluation
from coupalign.visual.figures import pixels
from coupalign.visual.gallery import draw_gallery, draw_samples
from tests.conftest import SMALLEST, read_csv, refshapes_config

SAMPLES = 6
pytestmark = pytest.mark.slow


def settings_of(data, **overrides):
    return refshapes_config(data, **{"eval_limit": SAMPLES, "threshold": 0.51, **overrides})


@pytest.fixture(scope="module")
def predictor(checkpoint):
    made = Predictor(checkpoint, config=load_config(overrides=SMALLEST))
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)  # compiling takes longer
    return made


@pytest.fixture(scope="module", autouse=True)
def one_model(predictor, checkpoint):
    """All predictors of this file share one model, because they have the same checkpoint."""

    def made(path, *, config):
        assert sha256(path) == sha256(checkpoint)
        same = copy.copy(predictor)
        same.config = config
        return same

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coupalign.visual.cases.Predictor", made)
        yield


def evaluate(config, predictor, checkpoint, output):
    """Evaluates as eval.py does, without shuffled expressions. Returns the JSON file."""
    result = evaluate_split(
        predictor.model, config, Split(config, "val"), "val", config.evaluation.eval_limit, progress=False
    )
    result.checkpoint = {"file": str(checkpoint), "sha256": sha256(checkpoint)}
    result.save(output)
    return output / "val.json"


@pytest.fixture(scope="module")
def evaluated(tiny_data, predictor, checkpoint, tmp_path_factory):
    return evaluate(settings_of(tiny_data), predictor, checkpoint, tmp_path_factory.mktemp("eval")).parent


@pytest.fixture(scope="module")
def cases(evaluated, tiny_data, checkpoint):
    return predict_cases(read_evaluation(evaluated / "val.json"), settings_of(tiny_data), checkpoint, 2, progress=False)


@pytest.fixture
def copied(evaluated, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(evaluated, tmp_path / "eval")


def test_the_command_draws_the_cases_of_the_evaluation(
    evaluated, cases, tiny_data, checkpoint, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("coupalign.devices.set_up", lambda run: None)  # would compile
    asked = []
    monkeypatch.setattr("coupalign.visual.cases.predict_cases", lambda *given: asked.append(given[1:]) or cases)
    output = tmp_path / "out/gallery.png"
    status = visualise.main(["gallery", str(evaluated / "val.json"), "--cases", "2", "--output", str(output)])
    assert (status, capsys.readouterr().out.split()) == (0, [str(output)])
    assert asked == [(settings_of(tiny_data), checkpoint, 2)], "configuration and checkpoint of the evaluation"
    assert load_image(output).shape[0] > 500


def test_cases_are_the_extremes_of_the_evaluation(evaluated, cases):
    every = [float(row["iou"]) for row in read_csv(evaluated / "val.csv")]
    ious = {group: [float(case.sample["iou"]) for case in cases if case.group == group] for group in ("best", "worst")}
    assert (max(ious["best"]), min(ious["worst"])) == (max(every), min(every))
    figure = draw_gallery(read_evaluation(evaluated / "val.json"), cases)
    said = "\n".join(text.get_text() for text in figure.findobj(Text))
    assert "refshapes (synthetic) val" in said
    for case in cases:
        assert f"IoU {float(case.sample['iou']):.3f}" in said


def test_samples_of_a_data_set_show_all_expressions(tiny_data, tmp_path, capsys):
    config = settings_of(tiny_data)
    figure = draw_samples(config, "val", 2)
    said = [axis.get_title(loc="left").replace("\n", " ") for axis in figure.axes]
    records = Split(config, "val").records
    for title in filter(None, said):
        rows = records["mask_row"] == records["mask_row"][records["expression"] == title.split(" | ")[0]][0]
        assert " | ".join(records["expression"][rows]).startswith(title.removesuffix("…"))
    assert len(list(filter(None, said))) == 2
    arguments = ["--dataset", "refshapes", "--data_dir", str(tiny_data), "--max_tokens", "8"]
    assert visualise.main(["data", *arguments, "--output", str(tmp_path / "a.png")]) == 0
    assert load_image(tmp_path / "a.png").shape[1] == 1240


def test_masks_have_the_iou_of_the_evaluation(cases):
    """The IoU of the drawn masks, computed with NumPy."""
    assert {case.group for case in cases} == {"best", "median", "worst"}
    for case in cases:
        intersection, union = (case.prediction & case.target).sum(), (case.prediction | case.target).sum()
        assert intersection / max(union, 1) == pytest.approx(float(case.sample["iou"]), abs=2e-3)
        assert case.image.shape[:2] == case.target.shape == case.prediction.shape


def test_masks_compared_at_the_input_size_are_drawn_at_it(tiny_data, predictor, checkpoint, tmp_path):
    config = settings_of(tiny_data, eval_resolution="input", eval_limit=2)
    evaluation = read_evaluation(evaluate(config, predictor, checkpoint, tmp_path))
    cases = predict_cases(evaluation, config, checkpoint, 1, progress=False)
    for case in cases:
        intersection, union = (case.prediction & case.target).sum(), (case.prediction | case.target).sum()
        assert intersection / max(union, 1) == pytest.approx(float(case.sample["iou"]), abs=2e-3)
        assert case.target.shape == case.prediction.shape == (64, 64) != case.image.shape[:2]


def test_an_evaluation_of_another_precision_can_be_drawn_on_a_cpu(copied, tiny_data, checkpoint):
    changed(copied / "val.json", in_section("config", precision="bf16", device_target="Ascend"))
    assert predict_cases(read_evaluation(copied / "val.json"), settings_of(tiny_data), checkpoint, 1, progress=False)


def sample(number: int, image: int, intersection: int, union: int = 100, **other) -> dict:
    return {
        "image_id": image,
        "sent_id": number,
        "intersection": intersection,
        "union": union,
        "iou": f"{intersection / union if union else 1:.6f}",
        "expression": "x",
        "family": "",
        **other,
    }


def test_choice_by_hand():
    ious = [30, 90, 80, 80, 0, 0, 50, 40]
    images = [1, 1, 2, 1, 3, 3, 4, 5]
    samples = [sample(k, image, iou, 100 + (k == 5)) for k, (image, iou) in enumerate(zip(images, ious))]
    # Best: image 1 once. Worst: of the two without any overlap that with more pixels. Median: around 40 and 50.
    assert choose(samples, 2) == {"best": [1, 2], "median": [6, 7], "worst": [0, 5]}
    assert choose([sample(0, 1, 0, 0)], 3) == {"best": [0], "median": [], "worst": []}


def made_up(group: str, number: int, **other) -> Case:
    random = np.random.default_rng(number)
    height, width = [(20, 60), (60, 20), (40, 40), (2, 900), (900, 2)][number % 5]
    return Case(
        group,
        sample(number, number, 3, 7, **other),
        random.integers(0, 256, (height, width, 3), dtype=np.uint8),
        random.random((height, width)) > 0.5,
        random.random((height, width)) > 0.5,
    )


def test_any_expression_and_shape_can_be_drawn(evaluated):
    expressions = ["the left cup", "incomprehensibilities " * 12, "W" * 300, "$a_1$ \\x {", ""]
    cases = [made_up("best", k, expression=expression) for k, expression in enumerate(expressions)]
    assert np.ptp(pixels(draw_gallery(read_evaluation(evaluated / "val.json"), cases))) == 255


def changed(path, change):
    """Rewrites a JSON or CSV file."""
    if path.suffix == ".json":
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
    else:
        path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


def in_section(section, **values):
    """A change of some values of a section of the JSON file."""
    return lambda content: {**content, section: {**content[section], **values}}


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("val.csv", lambda lines: lines[:-1], f"has {SAMPLES - 1} samples"),
        ("val.csv", lambda lines: ["a,b", *lines[1:]], "it is not a table of samples"),
        ("val.csv", lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "does not hold the samples"),
        ("val.json", lambda content: {**content, "checkpoint": None}, "names no checkpoint"),
        ("val.json", in_section("checkpoint", sha256="0" * 64), "is a different checkpoint"),
        ("val.json", in_section("checkpoint", file="gone/gone.ckpt"), "no checkpoint gone/gone.ckpt"),
        ("val.json", in_section("config", eval_resolution="elsewhere"), "eval_resolution"),
    ],
)
def test_damaged_results_are_one_line_and_leave_nothing(copied, refuses, file, change, message):
    changed(copied / file, change)
    assert message in refuses(visualise.main, ["gallery", copied / "val.json"])


@pytest.mark.parametrize(
    "arguments",
    ["--threshold 0.5", "--cases 0", "--data_dir nowhere", "--checkpoint none.ckpt"],
)
def test_mistakes_are_one_line_and_leave_nothing(copied, refuses, arguments):
    option, value = arguments.split()
    line = refuses(visualise.main, ["gallery", copied / "val.json", option, value])
    assert option in line or value in line


def test_a_table_of_another_model_is_noticed(copied, tiny_data, checkpoint):
    """Same samples, same checkpoint, other figures."""
    perfect = r",\1,\1,1.000000"
    changed(copied / "val.csv", lambda lines: [re.sub(r",\d+,(\d+),[\d.]+$", perfect, line) for line in lines])
    evaluation = read_evaluation(copied / "val.json")
    with pytest.raises(UserError, match="IoU 1.000000 for"):
        predict_cases(evaluation, settings_of(tiny_data), checkpoint, 1, progress=False)


def test_a_checkpoint_that_moved_with_its_evaluation_is_found(evaluated, checkpoint, tmp_path):
    moved = tmp_path / "run"
    shutil.copytree(evaluated, moved / "eval")
    shutil.copy(checkpoint, moved / "best.ckpt")
    changed(moved / "eval/val.json", in_section("checkpoint", file="gone/best.ckpt"))
    assert read_evaluation(moved / "eval/val.json").checkpoint() == moved / "best.ckpt"
