from __future__ import annotations

import numpy as np
import pytest
import torch
from mindspore import Tensor

from src.model.resize import Upsample
from src.model.seg_head import SegHead
from tests import equations
from tests.conftest import assert_close


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_upsample_is_torchs_bilinear(factor, size):
    x = np.random.default_rng(0).standard_normal((2, 3, size, size)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(x).double(), scale_factor=factor, mode="bilinear",
                                               align_corners=False).numpy()
    assert_close(Upsample(size=size, factor=factor)(Tensor(x)), expected, relative=1e-6)
    assert_close(equations.upsample(x, factor), expected, relative=1e-12)


def test_seg_head_is_eq_10(random_cell):
    cell = SegHead(image_dims=[3, 4, 6, 8], fused_dim=10, dim=5, size=16)
    shapes = [(2, 10, 2, 2), (2, 3, 16, 16), (2, 4, 8, 8), (2, 6, 4, 4), (2, 8, 2, 2)]
    head, w, (fused, *stages) = random_cell(cell, inputs=shapes)
    found = head.cell(*(Tensor(x.astype(np.float32)) for x in [fused]),
                      [Tensor(x.astype(np.float32)) for x in stages])
    assert_close(found, equations.seg_head(fused, stages, w), relative=1e-5)
