"""Operators in the compiled graphs of a Cell, as MindSpore hands them to a device, read from its saved IR."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import mindspore
from mindspore import nn

# Nodes that are not operators of a device: parameters, tuples, the order of side effects, branches and loops.
CONTROL = {"Load", "UpdateState", "Depend", "MakeTuple", "TupleGetItem", "Switch", "Partial", "Return"}
NODE = re.compile(r"  %\d+\(.*?\) = (?:(?:PrimFunc_)?([A-Z]\w*)\((.*))?")
TENSOR = re.compile(r"Tensor\[(\w+)\](?:\]?>?, \(([\d, ]*)\)|\*(\d+))?")


class Operator(NamedTuple):
    """An operator in a graph."""

    name: str
    call: str  # arguments and attributes as printed
    dtypes: str  # of its input tensors, each once, such as "float32 int32"
    shapes: tuple[tuple[int, ...], ...]  # of its input tensors, except those in a tuple
    count: int  # of its input tensors
    output: tuple[int, ...]  # shape of its first output
    where: str  # line of this project that it comes from


def operators(cell: nn.Cell, inputs: list[Any], directory: Path) -> list[Operator]:
    """All operators of the graphs of `cell` after differentiation and optimisation.

    Kernels are chosen later, for the device, so graphs in bfloat16 can be read on a CPU.
    """
    with _saving(directory):
        cell.compile(*inputs)
    return [each for path in sorted(directory.glob("*_validate_*.ir")) for each in _read(path)]


@contextmanager
def _saving(directory: Path) -> Iterator[None]:
    os.environ["MS_DEV_DUMP_IR_PASSES"] = "validate"
    mindspore.set_context(mode=mindspore.GRAPH_MODE, precompile_only=True)
    mindspore.set_context(save_graphs=2, save_graphs_path=str(directory))
    try:
        yield
    finally:
        mindspore.set_context(precompile_only=False, save_graphs=0)
        del os.environ["MS_DEV_DUMP_IR_PASSES"]


def _read(path: Path) -> Iterator[Operator]:
    """A node is printed as its call, its types as ``: (inputs) -> (outputs)``, and comments on where it comes from."""
    name = call = types = where = ""
    for line in [*path.read_text(encoding="utf-8").splitlines(), "}"]:
        node = NODE.match(line)
        if node or line.startswith("}"):
            if name and name not in CONTROL:
                found, results = (TENSOR.findall(each) for each in types.partition(" -> ")[::2])
                dtypes = " ".join(sorted({dtype.lower() for dtype, _, _ in found}))
                shapes = tuple(_shape(shape) for _, shape, _ in found)
                count = sum(int(count or 1) for _, _, count in found)
                yield Operator(name, call, dtypes, shapes, count, _shape(results[0][1]) if results else (), where)
            name, call, types, where = (node[1] or "", node[2] or "", "", "") if node else ("", "", "", "")
        elif line.startswith("      : (") and not types:
            types = line
        elif not types:
            call += line
        elif "# In file" in line and "/coupalign/" in line:
            where = re.sub(r".*/(coupalign/[\w/.]+:\d+).*", r"\1", line)


def _shape(printed: str) -> tuple[int, ...]:
    return tuple(int(size) for size in printed.split(",") if size.strip())
