"""The cost model against published figures, the model's own parameters, and a dump of a graph counted by hand."""

from __future__ import annotations

import pytest

from benchmarks.costs import costs
from benchmarks.graph_count import count_dump
from coupalign.config import load_config
from coupalign.model import build_model
from tests.conftest import TINY

DUMP = """
  %1(a) = PrimFunc_MatMul(%0, %w, Bool(0), Bool(1)) cnode_primal_attrs: {unique_id: "1"}
      : (<Tensor[Float32], (8, 5)>, <Ref[Tensor[Float32]], (7, 5), ref_key=w>) -> (<Tensor[Float32], (8, 7)>)
      # In file /x/src/coupalign/model/coup_align.py:94, 21~46/            pixels = self.image_encoder.layers[i](pixels)/
      # In file /x/src/coupalign/model/swin.py:67, 20~42/        return self.fc2(gelu(self.fc1(x)))/
  %2(b) = PrimFunc_LayerNorm(%1, %g, %b, I64(-1), I64(-1), F32(1e-05)) cnode_primal_attrs: {unique_id: "2"}
      : (<Tensor[Float32], (8, 7)>, <Tensor[Float32], (7)>) -> (<Tuple[Tensor[Float32]*3], TupleShape((8, 7), (8, 1))>)
      # In file /x/src/coupalign/model/swin.py:67, 20~42/        return self.fc2(gelu(self.fc1(x)))/
  %3(c) = Conv2D(%2, %k) primitive_attrs: {kernel_size: (3, 3)} cnode_primal_attrs: {unique_id: "3"}
      : (<Tensor[Float32], (1, 2, 6, 6)>, <Tensor[Float32], (4, 2, 3, 3)>) -> (<Tensor[Float32], (1, 4, 6, 6)>)
      # In file /x/src/coupalign/model/seg_head.py:53, 16~42/            y = self.up[i](self.rho[i](y))/
  %4(d) = PrimFunc_MatMulExt(Tensor(shape=[1, 6, 3], dtype=Float32, value=
[[ 1.00000000e+00  0.00000000e+00  0.00000000e+00]]), %1) cnode_primal_attrs: {forward_unique_id: "1"}
      : (<Tensor[Float32], (1, 6, 3), value=...>, <Tensor[Float32], (1, 3, 2)>) -> (<Tensor[Float32], (1, 6, 2)>)
      # In file /x/src/coupalign/model/seg_head.py:53, 16~42/            y = self.up[i](self.rho[i](y))/
      # In file /x/src/coupalign/model/resize.py:39, 16~42/        return ops.matmul(self.rows, wide)/
  %5(e) = Conv2DBackpropFilter(%d, %2, (I64(4), I64(2), I64(3), I64(3))) cnode_primal_attrs: {forward_unique_id: "3"}
      : (<Tensor[Float32], (1, 4, 6, 6)>, <Tensor[Float32], (1, 2, 6, 6)>) -> (<Tensor[Float32], (4, 2, 3, 3)>)
      # In file /x/src/coupalign/model/seg_head.py:53, 16~42/            y = self.up[i](self.rho[i](y))/
"""


def test_parameters_are_the_model_s():
    """Module by module; of the paper's size, those that the README names."""
    config = load_config(overrides=TINY)
    found = dict.fromkeys(costs(config, 1), 0)
    for parameter in build_model(config).trainable_params():
        found[parameter.name.split(".")[0]] += parameter.size
    assert {name: cost.parameters for name, cost in costs(config, 1).items()} == found
    assert sum(cost.parameters for cost in costs(load_config(), 1).values()) == 229_499_192


@pytest.mark.parametrize(("image_size", "window", "published"), [(224, 7, 15.4e9), (384, 12, 47.0e9)])
def test_flops_of_swin_b_are_as_published(image_size, window, published):
    """Multiply-adds of an image in Table 1 of Liu et al.; the classifier counts next to nothing."""
    config = load_config(overrides={"image_size": image_size, "swin_window_size": window})
    assert costs(config, 1)["image_encoder"].forward / 2 == pytest.approx(published, rel=0.02)


def test_a_dump_is_counted_as_by_hand():
    found = {name: cost for name, cost in count_dump(DUMP).items() if cost.forward}
    assert {name: (cost.forward, cost.backward, cost.activations) for name, cost in found.items()} == {
        "image_encoder": (2 * 8 * 5 * 7, 0, 8 * 7 + 8 * 7),
        "seg_head": (2 * 36 * 4 * 2 * 9, 2 * 36 * 4 * 2 * 9 + 2 * 6 * 3 * 2, 4 * 36),
    }
