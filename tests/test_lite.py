"""Deployment of an exported model, in the environments that scripts/set_up_lite.sh creates.

MindSpore 2.0 exports it, MindSpore Lite runs it in Python and in the C++ program, which is built with sanitizers.
Skipped if one of these is missing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
from mindspore import Tensor

from benchmarks.lite_latency import GraphWorker
from coupalign.checkpoints.loading import load_checkpoint
from coupalign.data.dataset import Split
from coupalign.data.images import load_image
from coupalign.evaluation.evaluate import evaluate_split
from coupalign.files import REPOSITORY
from coupalign.inference.deployment import INPUTS, score, write_inputs
from coupalign.inference.predictor import Predictor
from coupalign.model import build_model
from tests.conftest import refshapes_config
from tests.picture_files import write_picture_files
from tests.test_tokenizer import VOCABULARY

EXPORT, LITE = (REPOSITORY / f".lite/{name}/bin/python" for name in ("export", "python"))
RUNTIME = REPOSITORY / ".lite/cpp/mindspore_lite"
HEADERS = Path(os.environ.get("OpenCV_ROOT", "/")) / "usr/include/opencv4/opencv2/imgcodecs.hpp"
MISSING = [
    each
    for each, there in (
        ("MindSpore 2.0", EXPORT.exists()),
        ("MindSpore Lite in Python", LITE.exists()),
        ("MindSpore Lite", RUNTIME.exists()),
        ("OpenCV for C++", HEADERS.exists()),
        ("g++", shutil.which("g++")),
        ("cmake", shutil.which("cmake")),
    )
    if not there
]
pytestmark = [
    pytest.mark.lite,
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)}: run scripts/set_up_lite.sh"),
]

SAMPLES = 30
# Unless GLOG_v is set, the program turns off Lite's log.
ENVIRONMENT = {**{name: value for name, value in os.environ.items() if name != "GLOG_v"}, "MS_LITE_HOME": str(RUNTIME)}


def _export(checkpoint: Path, mindir: Path, batch_size: int = 1) -> Path:
    line = [EXPORT, "export.py", "--checkpoint", checkpoint, "--file_name", mindir, "--export_batch_size", batch_size]
    subprocess.run(list(map(str, line)), cwd=REPOSITORY, check=True)
    return mindir


class Deployed:
    """An exported smallest model with random weights, its checkpoint, and the C++ program."""

    def __init__(self, directory: Path, checkpoint: Path, config):
        self.config, self.checkpoint = config, checkpoint
        self.program = directory / "build/coupalign"
        build = subprocess.Popen(
            ["bash", "ascend310_infer/build.sh", "-DSANITIZE=ON", "-DCMAKE_CXX_FLAGS_RELEASE=-O1"],
            cwd=REPOSITORY,
            env={**ENVIRONMENT, "BUILD_DIR": str(self.program.parent)},
        )
        self.mindir = _export(checkpoint, directory / "graph.mindir")
        assert build.wait() == 0

    def run(self, directory: Path, *arguments: str, **options: str) -> subprocess.CompletedProcess:
        """Runs the program with options such as ``image="a.png"``; the default MindIR is the graph."""
        given = {"mindir_path": str(self.mindir), **options}
        line = [str(self.program), *arguments, *(f"--{name}={value}" for name, value in given.items() if value)]
        return subprocess.run(line, cwd=directory, env=ENVIRONMENT, capture_output=True, text=True, errors="replace")


@pytest.fixture(scope="module")
def deployed(make_checkpoint, tiny_data, tmp_path_factory):
    config = refshapes_config(tiny_data, eval_limit=SAMPLES, threshold=0.65)
    return Deployed(tmp_path_factory.mktemp("deployed"), make_checkpoint(config), config)


@pytest.fixture(scope="module")
def inputs(deployed, tmp_path_factory):
    """A directory with the inputs of the samples of val."""
    directory = tmp_path_factory.mktemp("val")
    assert write_inputs(deployed.config, "val", deployed.mindir, directory) == SAMPLES
    return directory


def _options(directory: Path) -> dict[str, str]:
    return {f"input{i}_path": str(directory / name) for i, name in enumerate(INPUTS)}


def test_a_split_gets_the_probabilities_and_the_score_of_mindspore(deployed, inputs, tmp_path):
    model = build_model(deployed.config)
    load_checkpoint(deployed.checkpoint, model)
    expected, logits = [], []

    def forward(*arrays: Tensor) -> Tensor:
        logits.append(model(*arrays))
        return logits[-1]

    result = evaluate_split(forward, deployed.config, Split(deployed.config, "val"), "val", SAMPLES, progress=False)
    expected = 1 / (1 + np.exp(-np.concatenate([each.asnumpy() for each in logits])[:SAMPLES].astype(np.float64)))
    assert expected.std() > 0.1

    done = deployed.run(tmp_path, **_options(inputs))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"infer_count {SAMPLES}" in done.stdout
    with GraphWorker(LITE, deployed.mindir, VOCABULARY, 2) as lite:
        (tmp_path / "python").mkdir()
        for file in sorted((inputs / INPUTS[0]).iterdir()):
            lite.run([inputs / name / file.name for name in INPUTS], tmp_path / f"python/{file.stem}_0.bin")
    for results in (tmp_path / "result_Files", tmp_path / "python"):
        found = np.stack([np.fromfile(results / f"{number:06d}_0.bin", np.float32) for number in range(SAMPLES)])
        np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-5)
        assert score(deployed.config, "val", results).metrics == result.metrics


def test_batches_of_image_files_get_the_answers_of_mindspore(deployed, make_checkpoint, tiny_data, tmp_path):
    """Four pairs in batches of three, in C++ and in Python; the model finds that an expression fits nothing.

    Other files of a directory are left out, and a damaged image is reported.
    """
    # The threshold lies between the probabilities that the random weights give the pairs.
    config = refshapes_config(tiny_data, existence=True, threshold=0.5, existence_threshold=0.315)
    checkpoint = make_checkpoint(config)
    mindir = _export(checkpoint, tmp_path / "graph.mindir", batch_size=3)
    photos = tmp_path / "photos"
    photos.mkdir()
    random = np.random.default_rng(0)
    for i in range(3):
        pixels = cv2.resize(random.integers(0, 256, (6, 8, 3), np.uint8), (310, 220 + 10 * i))
        cv2.imwrite(str(photos / f"{i}.JPG"), pixels)
    (photos / "1.JPG").write_bytes((photos / "1.JPG").read_bytes()[:-500])
    (photos / "notes.txt").write_text("no image")
    (photos / "older").mkdir()
    predictor = Predictor(checkpoint, config=config)
    expressions = ("red circle on the left", "cup")
    pairs = list(product((str(photos / "0.JPG"), str(photos / "2.JPG")), expressions))
    expected = [predictor.predict(*pair) for pair in pairs]
    assert {each.nothing_fits for each in expected} == {False, True}
    assert all(0.02 < (each.probability > 0.5).mean() < 0.98 for each in expected)
    assert len({round(float(each.probability.max()), 4) for each in expected}) == 4, "every pair has its own answer"

    masks = []
    given = ["--image", photos, "--vocab", VOCABULARY, *(f"--expression={each}" for each in expressions)]
    for program in ([deployed.program, "--mindir_path"], [LITE, "deploy/lite_predict.py", "--model"]):
        line = [*program, mindir, *given, "--output", tmp_path / f"out{len(masks)}"]
        done = subprocess.run(list(map(str, line)), cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True)
        said = done.stdout + done.stderr
        assert done.returncode == 2 and "1.JPG" in said and "notes" not in said and "Sanitizer" not in said
        answers = [each for each in map(json.loads, done.stdout.splitlines()) if "error" not in each]
        assert [(each["image"], each["expression"]) for each in answers] == pairs
        masks.append([cv2.imread(each["mask"], cv2.IMREAD_GRAYSCALE) > 0 for each in answers])
        for answer, mask, right in zip(answers, masks[-1], expected):
            assert answer["existence"] == pytest.approx(right.existence, abs=1e-5)
            assert answer["score"] == pytest.approx(right.probability.max(), abs=1e-4)
            assert answer["nothing_fits"] == right.nothing_fits and tuple(answer["warnings"]) == right.warnings
            assert all(each in done.stderr for each in right.warnings)
            # Apart from pixels on the threshold.
            assert (mask != right.mask).mean() < 1e-3 and mask.any() != right.nothing_fits
    for cpp, python in zip(*masks):
        np.testing.assert_array_equal(cpp, python)


def test_pillow_of_python_3_7_reads_images_as_training_does(tmp_path):
    paths = write_picture_files(tmp_path)
    code = (
        "import sys, numpy; sys.path.insert(0, 'deploy'); from model_inputs import load_image\n"
        "for path in sys.argv[1:]: numpy.save(path, load_image(path))"
    )
    subprocess.run([str(LITE), "-c", code, *map(str, paths)], cwd=REPOSITORY, check=True)
    for path in paths:
        np.testing.assert_array_equal(np.load(f"{path}.npy"), load_image(path), err_msg=path.name)


def test_every_pair_gets_its_own_files(deployed, tmp_path):
    pixels = cv2.imencode(".png", np.zeros((20, 30, 3), np.uint8))[1].tobytes()
    names = ["猫.png", "狗.png", os.fsdecode(b"caf\xe9.png"), "n" * 200 + ".png"]
    expressions = ["the dog", "the 龘 dog"]
    for name in names:
        (tmp_path / name).write_bytes(pixels)
    given = [f"--image={each}" for each in [*names, names[0]]] + [f"--expression={each}" for each in expressions]
    done = deployed.run(tmp_path, *given, vocab=str(VOCABULARY), output="out")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(each["image"], each["expression"]) for each in answers] == list(product(names, expressions))
    assert all(len(each["warnings"]) == ("龘" in each["expression"]) for each in answers)
    assert not any("existence" in each for each in answers)
    assert done.returncode == 0 and done.stderr.count("warning: ") == 1
    assert (
        len({each[kind] for each in answers for kind in ("mask", "overlay")}) == 16 == len(os.listdir(tmp_path / "out"))
    )


IMAGE = {"image": "good.png", "expression": "the dog", "vocab": str(VOCABULARY)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "pass either --image or --input0_path"),
        ({"image": "good.png"}, "--vocab is missing"),
        ({**IMAGE, "input0_path": "a"}, "pass either --image or --input0_path"),
        ({**IMAGE, "threads": "many"}, "--threads is many"),
        ({**IMAGE, "device_type": "GPU"}, "--device_type is GPU"),
        ({**IMAGE, "colour": "red"}, "unknown option --colour"),
        ({**IMAGE, "expression": " "}, "the expression is empty"),
        ({**IMAGE, "vocab": "none.txt"}, "no vocabulary none.txt"),
        ({**IMAGE, "vocab": "short.txt"}, "has 4 tokens instead of 30522"),
        ({**IMAGE, "image": "none.png"}, "no image none.png"),
        ({**IMAGE, "mindir_path": "none.mindir"}, "no description of the model none.json"),
        ({**IMAGE, "mindir_path": "cut.mindir"}, "cannot load cut.mindir"),
        (
            {**IMAGE, "mindir_path": "noise.mindir"},
            "noise.mindir on CPU: Lite reads files of its own version only, and MindSpore 2.0.0",
        ),
        ({**IMAGE, "device_type": "Ascend"}, "libgraph.so"),
        *(
            ({**IMAGE, "mindir_path": f"{name}.mindir"}, "export the model again")
            for name in ("text", "list", "nothing", "no_shape", "words", "cut_json")
        ),
        ({**IMAGE, "mindir_path": "negative.mindir"}, "negative.json is damaged"),
        ({**IMAGE, "image": "bare"}, "directory bare has no images"),
        ({**IMAGE, "output": "good.png"}, "cannot be created as a directory"),
        ({"input0_path": "none", "input1_path": "none", "input2_path": "none"}, "none cannot be listed"),
        ({"input0_path": "bare", "input1_path": "bare", "input2_path": "bare"}, "no file in bare"),
        ({"input0_path": "short", "input1_path": "bare", "input2_path": "bare"}, "no input bare/000000.bin"),
        ({"input0_path": "short", "input1_path": "short", "input2_path": "short"}, "has 8 bytes, but the model needs"),
    ],
)
def test_damaged_inputs_are_reported_in_one_line(deployed, broken, options, message):
    done = deployed.run(broken, **options)
    *_, line = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith("error: ") and message in line


@pytest.fixture(scope="module")
def broken(deployed, tmp_path_factory):
    """A directory of files that are damaged in many ways."""
    directory = tmp_path_factory.mktemp("broken")
    good, description = deployed.mindir.read_bytes(), deployed.mindir.with_suffix(".json").read_text()
    noise = np.random.default_rng(0).integers(0, 256, 5000, np.uint8).tobytes()
    for name, content in {"cut": good[: len(good) // 2], "noise": noise}.items():
        (directory / f"{name}.mindir").write_bytes(content)
        (directory / f"{name}.json").write_text(description)
    values = json.loads(description)
    for name, content in {
        "text": "no JSON",
        "list": "[1, 2]",
        "nothing": "",
        "no_shape": json.dumps({**values, "inputs": []}),
        "words": json.dumps({**values, "threshold": "half"}),
        "cut_json": description[:200],
        "negative": json.dumps({**values, "image": {**values["image"], "size": -1}}),
    }.items():
        (directory / f"{name}.json").write_text(content)
        shutil.copy(deployed.mindir, directory / f"{name}.mindir")
    picture = cv2.imencode(".png", np.frombuffer(noise[:4800], np.uint8).reshape(40, 40, 3))[1].tobytes()
    (directory / "good.png").write_bytes(picture)
    (directory / "short.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n")
    (directory / "bare").mkdir()
    (directory / "short").mkdir()
    (directory / "short/000000.bin").write_bytes(b"12345678")
    return directory


def test_files_of_random_bytes_are_refused_or_run(deployed, broken, tmp_path):
    """Images with some changed bytes."""
    random = np.random.default_rng(1)
    pixels = cv2.GaussianBlur(random.integers(0, 256, (40, 50, 3), np.uint8), (5, 5), 0)
    content = cv2.imencode(".jpg", pixels)[1]
    prepare = deployed.program.with_name("prepare")
    cv2.imwrite(str(tmp_path / "mask.png"), np.full((40, 50), 255, np.uint8))
    refused = 0
    for _ in range(60):
        changed = content.copy()
        changed[random.integers(0, len(changed), 8)] = random.integers(0, 256, 8)
        (tmp_path / "changed.jpg").write_bytes(changed.tobytes())
        line = [prepare, tmp_path / "changed.jpg", "64", tmp_path / "mask.png", tmp_path]
        done = subprocess.run(list(map(str, line)), env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode in (0, 2) and "Sanitizer" not in done.stderr and "runtime error" not in done.stderr
        refused += done.returncode == 2
    assert 0 < refused < 60
