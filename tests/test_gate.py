from __future__ import annotations

from coupalign.model.gate import Gate
from tests import equations
from tests.conftest import assert_close


def test_gate_is_eq_6(random_cell):
    gate, w, f = random_cell(Gate(8), inputs=(2, 5, 8))
    for each, expected in zip(gate(f), equations.gate(f, w), strict=True):
        assert_close(each, expected, relative=1e-6)
