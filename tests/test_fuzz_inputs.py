"""Random inputs of all programs, with their damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import fuzz_inputs


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
