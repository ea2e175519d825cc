"""Export of a trained model as ONNX, checked and compared with the model in ONNX Runtime."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
import onnx
import onnxruntime
from mindspore import Tensor, nn
from mindspore.common.initializer import Zero
from mindspore.train import mind_ir_pb2
from onnxruntime.quantization import QuantType, quantize_dynamic

from coupalign.config import Config
from coupalign.errors import UserError
from coupalign.files import atomic_path, sha256
from coupalign.inference.export import (
    EXPRESSION,
    INPUT_NAMES,
    OUTPUT_NAMES,
    arrays,
    comparison_inputs,
    describe,
    describe_ports,
    empty_working_directory,
    load_for_export,
    write_mindir,
)
from coupalign.inference.graph import ExportGraph
from coupalign.inference.onnx_graph import to_onnx
from coupalign.inference.onnx_operators import BATCH

TOLERANCE = 1e-4


def export_onnx(
    config: Config,
    checkpoint: str | os.PathLike,
    file_name: str | os.PathLike,
    raw_image: bool = False,
    int8: bool = False,
) -> float:
    """Writes `file_name` (.onnx), a .json that describes it, and an .npz with inputs and the model's outputs for them.

    The batch size of the graph is dynamic. ``onnx.checker`` checks the graph, and ONNX Runtime runs it on the inputs of
    the .npz, one by one and as a batch.

    Args:
        raw_image: let the graph take the pixels of the resized image, RGB (B, S, S, 3) uint8, and normalise them.
        int8: quantise the weights of linear layers to int8 for each output channel, and their inputs at run time.

    Returns: the largest difference of an output between the file and the model.

    Raises: UserError if the checkpoint does not fit, the file cannot be written, or the outputs of the float32 graph differ
    from the model's by more than ``TOLERANCE``. Existing files then stay as they were.
    """
    model, tokenizer = load_for_export(config, checkpoint)
    network = ExportGraph(model, raw_image, config.model.existence).set_train(False)
    inputs = comparison_inputs(config, *tokenizer.encode(EXPRESSION), 1, raw_image)
    expected = [arrays(network(*each)) for each in inputs]
    samples = dict(zip(INPUT_NAMES, (np.concatenate(each) for each in zip(*map(arrays, inputs)))))
    reference = dict(zip(OUTPUT_NAMES, (np.concatenate(each) for each in zip(*expected))))
    target = Path(file_name).expanduser().absolute()
    with (
        atomic_path(target) as graph,
        atomic_path(target.with_suffix(".json")) as description_file,
        atomic_path(target.with_suffix(".npz")) as reference_file,
    ):
        with empty_working_directory(target.parent):
            translated = to_onnx(_mindir(network, samples), INPUT_NAMES, list(reference))
        graph.write_bytes(translated.SerializeToString())
        onnx.checker.check_model(str(graph), full_check=True)
        difference = _difference(graph, samples, reference)
        if not difference <= TOLERANCE:  # true for NaN
            off = f"{difference:.1e}, more than {TOLERANCE:.0e}"
            raise UserError(f"{file_name} was not written: its outputs differ from the model's by {off}")
        if int8:
            # Convolutions stay float32: ONNX Runtime has no fast int8 kernels with dynamic quantisation for them.
            kinds = {"weight_type": QuantType.QInt8, "op_types_to_quantize": ["MatMul"], "per_channel": True}
            quantize_dynamic(translated, str(graph), **kinds)
            difference = _difference(graph, samples, reference)
        description = describe(config, tokenizer, checkpoint, "CPU", raw_image)
        description["versions"]["onnx"] = version("onnx")
        description["inputs"] = _dynamic(describe_ports(list(samples), list(samples.values())))
        description["outputs"] = _dynamic(describe_ports(list(reference), list(reference.values())))
        description["int8"] = int8
        description["onnx_sha256"] = sha256(graph)
        description_file.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        np.savez(reference_file, **samples, **reference)
    return difference


def _mindir(network: nn.Cell, samples: dict[str, np.ndarray]) -> mind_ir_pb2.ModelProto:
    """The graph for the batch size ``BATCH``. Its inputs have no memory, because they are never initialised."""
    inputs = [
        Tensor(shape=(BATCH, *each.shape[1:]), dtype=getattr(mindspore, str(each.dtype)), init=Zero())
        for each in samples.values()
    ]
    write_mindir(network, inputs)
    mindir = mind_ir_pb2.ModelProto()
    mindir.ParseFromString(Path("graph.mindir").read_bytes())
    return mindir


def _difference(graph: Path, samples: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> float:
    """Largest difference of an output, for the samples one by one and as a batch."""
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    count = len(next(iter(samples.values())))
    differences = []
    for rows in (slice(None), *(slice(i, i + 1) for i in range(count))):
        found = session.run(list(reference), {name: each[rows] for name, each in samples.items()})
        differences += [np.abs(each - reference[name][rows]).max() for name, each in zip(reference, found)]
    return float(np.max(differences))  # NaN if one is


def _dynamic(ports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**each, "shape": ["batch", *each["shape"][1:]]} for each in ports]
