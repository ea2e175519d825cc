"""Operators of MindIR and how each is written in ONNX.

Every function takes the translation so far, the operator's arguments, the shape and type of its output, and its attributes,
and returns the value of its output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from onnx import helper

if TYPE_CHECKING:
    from coupalign.inference.onnx_graph import Translation

# Batch size of the MindIR. No other size of a model is likely to be a multiple of this prime, so it marks the sizes that
# grow with the batch. Larger primes cost memory, because MindSpore computes some constants for the whole batch.
BATCH = 1009

# Name of a value of the ONNX graph; an array, which is a constant; a number, text or tuple among an operator's arguments.
Value = Any


class Output(NamedTuple):
    """Shape and type of an operator's result, its first one if it has several. Sizes of the batch are multiples of BATCH."""

    shape: list[int]
    dtype: np.dtype

    @property
    def target(self) -> np.ndarray:
        """The shape as ONNX's Reshape takes it: -1 for the size that grows with the batch."""
        sizes = np.array([-1 if size % BATCH == 0 else size for size in self.shape], np.int64)
        assert (sizes < 0).sum() <= 1, f"several sizes of {self.shape} grow with the batch"
        return sizes


def _same(operator: str) -> Callable:
    """An operator of the same meaning, whose arguments are tensors or numbers."""

    def translate(to: Translation, arguments: list[Value], output: Output, _: dict) -> Value:
        tensors = [np.array(each, output.dtype) if isinstance(each, (int, float)) else each for each in arguments]
        return to.emit(operator, tensors)

    return translate


def _reduce(operator: str) -> Callable:
    """A reduction, whose arguments are a tensor, one axis or several, and whether they are kept with size 1."""

    def translate(to: Translation, arguments: list[Value], output: Output, _: dict) -> Value:
        x, axes, keep_dims = arguments[:3]
        return to.emit(operator, [x, np.array(axes, np.int64).reshape(-1)], keepdims=int(keep_dims))

    return translate


def _reshape(to: Translation, arguments: list[Value], output: Output, _: dict) -> Value:
    return to.emit("Reshape", [arguments[0], output.target])


def _broadcast_to(to: Translation, arguments: list[Value], output: Output, _: dict) -> Value:
    return _expand(to, arguments[0], output.target)


def _expand(to: Translation, x: Value, shape: Sequence[int] | np.ndarray) -> Value:
    """Repeats x for the samples of a batch. The batch is the first size of `shape`, whatever its value there."""
    return to.emit("Expand", [x, to.emit("Concat", [to.batch, np.array(shape[1:], np.int64)], axis=0)])


def _transpose(to: Translation, arguments: list[Value], output: Output, _: dict) -> Value:
    return to.emit("Transpose", arguments[:1], perm=arguments[1])


def _mat_mul(to: Translation, arguments: list[Value], output: Output, _: dict) -> Value:
    """Of two matrices, each transposed first if its flag is set."""
    operands = [to.emit("Transpose", [x], perm=[1, 0]) if flag else x for x, flag in zip(arguments, arguments[2:])]
    return to.emit("MatMul", operands)


def _bias_add(to: Translation, arguments: list[Value], output: Output, _: dict) -> Value:
    """Along the second axis."""
    x, bias = arguments[:2]
    if len(output.shape) > 2:
        bias = to.emit("Reshape", [bias, np.array([-1] + [1] * (len(output.shape) - 2))])
    return to.emit("Add", [x, bias])


def _conv(to: Translation, arguments: list[Value], output: Output, attributes: dict) -> Value:
    pads = attributes["pad_list"]  # top, bottom, left, right
    return to.emit(
        "Conv",
        arguments[:2],
        pads=[pads[0], pads[2], pads[1], pads[3]],
        strides=attributes["stride"][2:],
        dilations=attributes["dilation"][2:],
        group=attributes["group"],
    )


def _layer_norm(to: Translation, arguments: list[Value], output: Output, _: dict) -> tuple:
    *tensors, axis, _, epsilon = arguments
    return (to.emit("LayerNormalization", tensors, axis=axis, epsilon=epsilon),)


def _batch_norm(to: Translation, arguments: list[Value], output: Output, _: dict) -> tuple:
    return (to.emit("BatchNormalization", arguments[:5], epsilon=arguments[6]),)


def _softmax(to: Translation, arguments: list[Value], output: Output, _: dict) -> Value:
    (axis,) = np.ravel(arguments[1])
    return to.emit("Softmax", arguments[:1], axis=int(axis))


def _gather(to: Translation, arguments: list[Value], output: Output, _: dict) -> Value:
    return to.emit("Gather", arguments[:2], axis=int(arguments[2]))


def _concat(to: Translation, arguments: list[Value], output: Output, _: dict) -> Value:
    tensors, axis = arguments
    if output.shape[0] == BATCH:
        tensors = [_expand(to, each, each.shape) if isinstance(each, np.ndarray) else each for each in tensors]
    return to.emit("Concat", tensors, axis=axis)


def _cast(to: Translation, arguments: list[Value], output: Output, _: dict) -> Value:
    return to.emit("Cast", arguments[:1], to=helper.np_dtype_to_tensor_dtype(output.dtype))


def _strided_slice(to: Translation, arguments: list[Value], output: Output, _: dict) -> Value:
    x, begin, end, step, begin_mask, end_mask, ellipsis, new_axes, shrunk = arguments
    assert not ellipsis and not new_axes
    # The axes that are cut, which the batch is not.
    axes = [
        i
        for i in range(len(begin))
        if not (begin_mask >> i & 1 or begin[i] == 0) or not (end_mask >> i & 1 or end[i] % BATCH == 0)
    ]
    first = [0 if begin_mask >> i & 1 else begin[i] for i in axes]
    last = [np.iinfo(np.int64).max if end_mask >> i & 1 else end[i] for i in axes]
    y = to.emit("Slice", [x, *(np.array(each, np.int64) for each in (first, last, axes, [step[i] for i in axes]))])
    return to.emit("Reshape", [y, output.target]) if shrunk else y


OPERATORS: dict[str, Callable[[Translation, list[Value], Output, dict], Value]] = {
    "Add": _same("Add"),
    "BatchMatMul": _same("MatMul"),
    "BatchNorm": _batch_norm,
    "BiasAdd": _bias_add,
    "BroadcastTo": _broadcast_to,
    "Cast": _cast,
    "Concat": _concat,
    "Conv2D": _conv,
    "Depend": lambda to, arguments, output, _: arguments[0],
    "Div": _same("Div"),
    "Divs": _same("Div"),
    "Erf": _same("Erf"),
    "ExpandDims": _reshape,
    "Gather": _gather,
    "LayerNorm": _layer_norm,
    "Load": lambda to, arguments, output, _: arguments[0],
    "MakeTuple": lambda to, arguments, output, _: tuple(arguments),
    "MatMul": _mat_mul,
    "MatMulExt": _same("MatMul"),
    "Maximum": _same("Max"),
    "Mul": _same("Mul"),
    "Muls": _same("Mul"),
    "ReLU": _same("Relu"),
    "RealDiv": _same("Div"),
    "Reciprocal": _same("Reciprocal"),
    "ReduceMean": _reduce("ReduceMean"),
    "ReduceSum": _reduce("ReduceSum"),
    "Reshape": _reshape,
    "Sigmoid": _same("Sigmoid"),
    "Softmax": _softmax,
    "Sqrt": _same("Sqrt"),
    "Square": lambda to, arguments, output, _: to.emit("Mul", arguments * 2),
    "Squeeze": _reshape,
    "StridedSlice": _strided_slice,
    "Sub": _same("Sub"),
    "SumExt": _reduce("ReduceSum"),
    "Tanh": _same("Tanh"),
    "Transpose": _transpose,
    "TupleGetItem": lambda to, arguments, output, _: arguments[0][arguments[1]],
    "UpdateState": lambda to, arguments, output, _: None,
}
