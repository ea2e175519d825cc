"""Export a checkpoint as MindIR or ONNX, and check the file against the model.

The graph takes a prepared image, token_ids and token_mask, and returns the probability of each pixel. The .json file
beside it describes shapes, mean and deviation, vocabulary, threshold and versions for the program that runs it.

    python export.py --checkpoint runs/refcoco/best.ckpt --file_name coupalign.mindir
    python export.py --checkpoint runs/refcoco/best.ckpt --file_name coupalign.onnx --file_format ONNX

An ONNX graph takes any batch size. The .npz file beside it holds inputs and the outputs of the model for them.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from coupalign.checks import check_model
from coupalign.cli import CHECKPOINT, MODEL_KEYS, Argv, command, option, parse_arguments
from coupalign.errors import UserError
from coupalign.files import check_writable

OPTIONS = [
    CHECKPOINT,
    option("--file_name FILE", "file to write (default: the checkpoint's name, .mindir or .onnx)"),
    option("--file_format MINDIR|ONNX", "format of the file", default="MINDIR"),
    option("--export_batch_size INT", "batch size of a MindIR, which is fixed", default=1),
    option("--export_for CPU|Ascend", "where the file will run", default="CPU"),
    option("--export_raw_image", "the graph takes pixels, RGB (B, S, S, 3) uint8, and normalises them itself"),
    option("--export_int8", "quantise the linear layers of an ONNX graph"),
]


@command
def main(argv: Argv = None) -> int:
    config, args = parse_arguments(__doc__, argv, OPTIONS, keys=MODEL_KEYS)
    batch_size = args.export_batch_size
    if batch_size < 1:
        raise UserError(f"--export_batch_size is {batch_size}: give at least 1")
    onnx = args.file_format == "ONNX"
    suffix = ".onnx" if onnx else ".mindir"
    path = Path(args.file_name or Path(args.checkpoint).with_suffix(suffix)).expanduser()
    if path.suffix != suffix:
        raise UserError(f"--file_name {path}: expected a name that ends in {suffix}")
    if onnx:
        if batch_size != 1 or args.export_for != "CPU":
            raise UserError("--export_batch_size and --export_for are for MindIR: leave them out for ONNX")
        if missing := [name for name in ("onnx", "onnxruntime") if not find_spec(name)]:
            raise UserError(f"ONNX needs {' and '.join(missing)}: python -m pip install -r requirements-onnx.txt")
    elif args.export_int8:
        raise UserError("--export_int8 is for ONNX: add --file_format ONNX, or leave it out")
    check_writable(path)
    check_model(config, args.checkpoint)
    from coupalign import devices

    devices.set_up(config.run)
    if onnx:
        from coupalign.inference.onnx_export import export_onnx

        difference = export_onnx(config, args.checkpoint, path, args.export_raw_image, args.export_int8)
        print(f"{path}: any batch size, outputs within {difference:.1e} of the model's")
    else:
        from coupalign.inference.export import export

        difference = export(config, args.checkpoint, path, batch_size, args.export_raw_image, args.export_for)
        print(f"{path}: batch {batch_size}, outputs within {difference:.1e} of the model's")
    return 0
