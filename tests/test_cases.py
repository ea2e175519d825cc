"""Small inputs that failed once, in ../shared/cases or the directory COUPALIGN_CASES, and random inputs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import predict
import prepare_data
from coupalign.config import load_config
from coupalign.data.dataset import Split
from coupalign.data.images import load_image
from coupalign.data.json_lines import read_json_lines
from coupalign.data.masks import mask_from_file
from coupalign.data.refer import read_refer
from coupalign.errors import UserError
from coupalign.files import REPOSITORY
from tests import fuzz_inputs
from tests.test_deployment import lite, model_inputs, run_lite  # noqa: F401  (`lite` is a fixture)

CASES = Path(os.environ.get("COUPALIGN_CASES", REPOSITORY.parent / "shared/cases"))
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="no directory COUPALIGN_CASES")


@pytest.fixture
def cases(tmp_path) -> Path:
    return Path(shutil.copytree(CASES, tmp_path / "cases", copy_function=shutil.copyfile))


def _prepare(annotations: Path, output: Path) -> int:
    return prepare_data.main(
        ["--dataset", "mine", "--annotations", str(annotations), "--output", str(output), "--workers", "1"]
    )


def _split(output: Path, split: str) -> list[dict]:
    data = Split(load_config(overrides={"dataset": "mine", "data_dir": str(output)}), split)
    return list(data.pictures(data.indices("all"), 1))


@needs_cases
@pytest.mark.parametrize("name", ["images/motion_photo.jpg", "images/exif6.webp", "tiff/o3.tif"])
def test_images_are_as_pillow_shows_them(name):
    expected = np.asarray(ImageOps.exif_transpose(Image.open(CASES / name)).convert("RGB"))
    for load in (load_image, model_inputs.load_image):
        np.testing.assert_array_equal(load(CASES / name), expected)


@needs_cases
def test_prepared_images_are_upright(cases, tmp_path):
    assert _prepare(cases / "tiff_o3.jsonl", tmp_path / "out") == 0
    (row,) = _split(tmp_path / "out", "train")
    red, green, blue = row["image"][row["target"]].mean(0)
    assert red > 150 and green < 60 and blue < 60


@needs_cases
def test_a_jpeg_without_end_marker_is_read():
    path = CASES / "images/no_eoi.jpg"
    np.testing.assert_array_equal(load_image(path), model_inputs.load_image(path))


@needs_cases
@pytest.mark.parametrize("name", ["pillow_quantize.png", "mask.jpg", "alpha_only.png"])
def test_mask_files(name):
    assert mask_from_file(CASES / "masks" / name, 60, 80, "line 1").sum() == 500


@needs_cases
@pytest.mark.parametrize(("lines", "file"), [("stale.jsonl", "a_mask.png"), ("bmp.jsonl", "b.bmp")])
def test_files_redrawn_with_the_same_number_of_bytes_are_prepared_again(cases, tmp_path, lines, file):
    path = cases / "stale" / file
    assert _prepare(cases / "stale" / lines, tmp_path / "out") == 0
    before, size = _split(tmp_path / "out", "train")[0], path.stat().st_size
    values = np.array(Image.open(path))
    Image.fromarray(values[::-1].copy()).save(path)
    if path.suffix == ".bmp":
        assert path.stat().st_size == size
    assert _prepare(cases / "stale" / lines, tmp_path / "out") == 0
    after = _split(tmp_path / "out", "train")[0]
    changed = "image" if path.suffix == ".bmp" else "target"
    np.testing.assert_array_equal(after[changed], before[changed][::-1])


@needs_cases
@pytest.mark.parametrize("name", ["labelme_points.jsonl", "cv2_contour.jsonl"])
def test_points_in_brackets_are_refused_with_the_accepted_forms(tmp_path, capsys, name):
    assert _prepare(CASES / "own" / name, tmp_path / "out") == 2
    (message,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "line 1 " in message and "polygons in pixels [[x1, y1, x2, y2, ...], ...]" in message


@needs_cases
@pytest.mark.parametrize("name", ["plain.json", "upper.JSONL", "mine.jsonl"])
def test_any_file_is_read_as_json_lines(tmp_path, name):
    assert _prepare(CASES / "own" / name, tmp_path / "out") == 0
    meta = json.loads((tmp_path / "out/meta.json").read_text())
    assert {split: count["images"] for split, count in meta["splits"].items()} == {"train": 8, "val": 2}


@needs_cases
def test_spellings_of_a_path_are_one_image():
    dataset = read_json_lines(CASES / "own/dot_slash.jsonl", CASES / "own")
    assert len(dataset.images) == 10


@needs_cases
@pytest.mark.parametrize("name", ["refer_py2_utf8", "refer_float_size"])
def test_refer_files_of_python_2_and_with_float_sizes(name):
    dataset = read_refer(CASES / name, CASES / name, "unc")
    texts = " ".join(sentence.text for referent in dataset.referents for sentence in referent.sentences)
    assert "\u00c3" not in texts
    assert ("caf\u00e9" in texts) or name != "refer_py2_utf8"
    assert all(isinstance(image.width, int) and image.width == 120 for image in dataset.images.values())


@needs_cases
def test_requests_with_a_byte_order_mark_are_read(lite, tmp_path, capsys):  # noqa: F811
    run_lite(tmp_path, expressions=CASES / "requests/bom.jsonl")
    lines = capsys.readouterr().out.splitlines()
    assert lines and all("image" in json.loads(line) for line in lines)


@needs_cases
def test_names_outside_ascii_get_a_file_each(tmp_path, capsys):
    arguments = [
        "--checkpoint",
        str(REPOSITORY / "assets/refshapes/best.ckpt"),
        "--image",
        str(CASES / "names"),
        "--expression",
        "the red circle",
    ]
    assert predict.main([*arguments, "--output", str(tmp_path / "out")]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 2 and len({line["mask"] for line in lines}) == 2 and len(os.listdir(tmp_path / "out")) == 7


def test_random_inputs_end_well():
    ends = fuzz_inputs.run(400, seed=0)
    assert ends["image read"] > 100 and ends["mask read"] > 40 and ends["requests refused"] > 0


def test_a_wrong_result_is_found(tmp_path):
    """The fuzz notices a loader that ignores the orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png", exif=exif)

    def load(path: Path) -> np.ndarray:
        return np.asarray(Image.open(path).convert("RGB"))

    with pytest.raises(AssertionError):
        fuzz_inputs.check_image((tmp_path / "a.png").read_bytes(), tmp_path / "b.png", {"wrong": load})
    with pytest.raises(UserError):
        load_image(tmp_path / "none.png")
