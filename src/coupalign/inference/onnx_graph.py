"""Translation of a MindIR into ONNX, operator by operator.

MindSpore's own exporters to ONNX stop at ``Erf``. A translation of the graph, not of the model, covers every
configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore  # noqa: F401  # before onnx: MindSpore only works with the Python implementation of protobuf
import numpy as np
import onnx
from mindspore.train import mind_ir_pb2
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from coupalign.errors import UserError
from coupalign.inference.onnx_operators import BATCH, OPERATORS, Output, Value

OPSET = 18


def to_onnx(mindir: mind_ir_pb2.ModelProto, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
    """Translates a graph that was exported with the batch size ``BATCH``; the batch of the result is dynamic.

    Results that depend on parameters only are computed during the translation. Other parameters keep their names.

    Args:
        inputs: Names of the inputs, whose first axis is the batch.
        outputs: Names of the outputs.

    Raises: UserError if an operator of the graph has no translation.
    """
    translation = Translation(inputs[0])
    graph = mindir.graph
    for name, each in zip(inputs, graph.input):
        translation.values[each.name] = name
    for each in graph.parameter:
        translation.add_parameter(each.name.split(":", 1)[1], each)
    operators = {f"REF::{each.name}": each for each in mindir.primitives}
    for node in graph.node:
        translation.add(node, operators.get(node.op_type))
    (output,) = graph.output
    results = translation.values[output.name]
    for name, each in zip(outputs, results if isinstance(results, tuple) else [results]):
        translation.emit("Identity", [each], output=name)
    result_types = output.tensor or [each.tensors[0] for each in output.attr_info.values]
    made = helper.make_graph(
        translation.nodes,
        "coupalign",
        [_port(name, each.tensor[0]) for name, each in zip(inputs, graph.input)],
        [_port(name, each) for name, each in zip(outputs, result_types)],
        [numpy_helper.from_array(array, name) for name, array in translation.initializers.items()],
    )
    # The IR version of this opset, so that older runtimes read the file.
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


class Translation:
    """The ONNX graph so far.

    Attributes:
        values: Results of the operators and constants, by their names in the MindIR.
        nodes: Operators of the ONNX graph.
        initializers: Constants that operators use.
        batch: Name of the batch size.
    """

    def __init__(self, batched_input: str):
        self.values: dict[str, Value] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, np.ndarray] = {}
        self._named: dict[int, tuple[str, np.ndarray]] = {}  # constants by id; the array keeps its id from being reused
        self.batch = self.emit("Shape", [batched_input], start=0, end=1)

    def add_parameter(self, name: str, parameter: mind_ir_pb2.TensorProto) -> None:
        array = self.values[parameter.name] = _array(parameter)
        self._named[id(array)] = name, array

    def add(self, node: mind_ir_pb2.NodeProto, primitive: mind_ir_pb2.PrimitiveProto | None) -> None:
        """Translates a node of the MindIR; constants have no primitive."""
        if primitive is None:
            value = _python(node.attribute[0])
        else:
            translate = OPERATORS.get(primitive.op_type)
            if translate is None:
                raise UserError(f"ONNX: operator {primitive.op_type} has no translation: export a MindIR")
            arguments = [self.values.get(name) for name in node.input]
            described = next(each for each in node.attribute if each.name == "shape")
            while described.values:
                described = described.values[0]
            tensor = described.tensors[0] if described.tensors else mind_ir_pb2.TensorProto(data_type=1)
            attributes = {each.name: _python(each) for each in primitive.attribute}
            value = translate(self, arguments, Output(list(tensor.dims), _dtype(tensor)), attributes)
        self.values[node.output[0]] = value

    def emit(self, operator: str, inputs: Sequence[Value], output: str = "", **attributes: Any) -> Value:
        """Adds an operator with one result, or computes it if all `inputs` are constants and the result is no larger."""
        if all(isinstance(each, np.ndarray) for each in inputs):
            names = [str(i) for i in range(len(inputs))]
            node = helper.make_node(operator, names, ["y"], **attributes)
            (constant,) = ReferenceEvaluator(node, opsets={"": OPSET}).run(None, dict(zip(names, inputs)))
            if constant.nbytes <= sum(each.nbytes for each in inputs):
                origin = self._named.get(id(inputs[0]), ("constant",))[0]
                self._named[id(constant)] = f"{origin}.{operator}_{len(self._named)}", constant
                return constant
        output = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(operator, [self._name(each) for each in inputs], [output], output, **attributes)
        )
        return output

    def _name(self, value: Value) -> str:
        if isinstance(value, str):
            return value
        name, _ = self._named.setdefault(id(value), (f"constant_{len(self._named)}", value))
        self.initializers[name] = value
        return name


def _dtype(tensor: mind_ir_pb2.TensorProto) -> np.dtype:
    """The numbers of MindIR's types are those of ONNX."""
    return np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))


def _array(tensor: mind_ir_pb2.TensorProto) -> np.ndarray:
    return np.frombuffer(tensor.raw_data, _dtype(tensor)).reshape(tensor.dims)


def _port(name: str, tensor: mind_ir_pb2.TensorProto) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, tensor.data_type, ["batch", *tensor.dims[1:]])


def _python(attribute: mind_ir_pb2.AttributeProto) -> Value:
    """Value of an attribute or constant."""
    kinds = mind_ir_pb2.AttributeProto.AttributeType
    kind = kinds.Name(attribute.type)
    if kind in ("TUPLE", "LIST"):
        return [_python(each) for each in attribute.values]
    if kind == "TENSORS":
        array = _array(attribute.tensors[0])
        if array.ndim and array.shape[0] % BATCH == 0:
            assert (array == array[:1]).all(), "a constant differs between the samples of a batch"
            return array[:1].copy()
        return array
    if kind in ("INT64", "INT32", "BOOL"):
        return attribute.ints[0] if attribute.ints else attribute.i
    if kind == "FLOAT":
        return attribute.floats[0] if attribute.floats else attribute.f
    return attribute.s
