"""Inputs that once failed, from a directory beside the repository or named by CASES, in the programs for prediction."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import predict
from coupalign.data.images import load_image
from coupalign.files import REPOSITORY
from tests.test_deployment import VOCABULARY, lite, lite_predict, run_lite  # noqa: F401  (`lite` is a fixture)

CASES = Path(os.environ.get("CASES", REPOSITORY.parent / "shared/cases"))
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"no directory {CASES}")
SHIPPED = REPOSITORY / "assets/refshapes/best.ckpt"


@pytest.mark.parametrize("name", ["images/motion_photo.jpg", "images/exif6.webp", "tiff/o3.tif"])
def test_images_are_as_pillow_shows_them(name):
    expected = np.asarray(ImageOps.exif_transpose(Image.open(CASES / name)).convert("RGB"))
    for load in (load_image, lite_predict.load_image):
        np.testing.assert_array_equal(load(CASES / name), expected)


def test_a_jpeg_without_end_marker_is_read():
    np.testing.assert_array_equal(
        load_image(CASES / "images/no_eoi.jpg"), lite_predict.load_image(CASES / "images/no_eoi.jpg")
    )


def test_requests_with_a_byte_order_mark_are_read(lite, tmp_path, capsys):  # noqa: F811
    run_lite(tmp_path, requests=CASES / "requests/bom.jsonl")
    lines = capsys.readouterr().out.splitlines()
    assert lines and all("image" in json.loads(line) for line in lines)


def test_names_outside_ascii_get_a_file_each(tmp_path, capsys):
    arguments = ["--checkpoint", str(SHIPPED), "--image", str(CASES / "names"), "--expression", "the red circle"]
    assert predict.main([*arguments, "--output", str(tmp_path / "out")]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 2 and len({line["mask"] for line in lines}) == 2 and len(os.listdir(tmp_path / "out")) == 4
