"""Serve a model over HTTP: POST /v1/segment takes an image and expressions and returns masks.

    python serve.py --checkpoint runs/refcoco/best.ckpt --port 8000
    python serve.py --engine onnx --model coupalign.onnx
    curl -F image=@street.jpg -F "expressions=the left cup" http://127.0.0.1:8000/v1/segment

Install requirements-serve.txt first or, for --engine onnx without MindSpore, deploy/requirements-serve.txt. Only this
machine can reach the service unless --host says otherwise. /openapi.json describes it; /healthz and /metrics
(Prometheus) are for monitoring.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from coupalign.checks import check_exists, check_model
from coupalign.cli import MODEL_KEYS, Argv, command, option, parse_arguments
from coupalign.errors import UserError

_CHECKPOINT, _BATCH_PAIRS = "assets/refshapes/model.safetensors", 8
OPTIONS = [
    option("--checkpoint FILE", "trained model, .ckpt or .safetensors", default=_CHECKPOINT),
    option("--engine mindspore|onnx", "what runs the model", default="mindspore"),
    option("--model FILE", "with --engine onnx: the .onnx of export.py, with its .json"),
    option("--threads INT", "with --engine onnx: CPU threads of a forward pass; 0 is one per core", default=0),
    option("--host ADDRESS", "address to listen on; 0.0.0.0 opens the service to the network", default="127.0.0.1"),
    option("--port INT", "1024 to 65535, or 0 for any free port", default=8000),
    option("--api_key_file FILE", "text file with a key that requests must send in the header X-API-Key"),
    option(
        "--batch_pairs INT",
        "with --engine mindspore: pairs of image and expression per forward pass",
        default=_BATCH_PAIRS,
    ),
    option("--max_requests INT", "requests at a time; further ones are answered 503", default=32),
    option("--timeout INT", "seconds that a request may take", default=30),
]


@command
def main(argv: Argv = None) -> int:
    config, args = parse_arguments(__doc__, argv, OPTIONS, keys=MODEL_KEYS)
    for name in ("batch_pairs", "max_requests", "timeout"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}: give at least 1")
    key = read_key(check_exists(args.api_key_file, "--api_key_file")) if args.api_key_file else ""
    onnx = args.engine == "onnx"
    if onnx:
        _check_onnx(argv, args)
    elif args.model or args.threads:
        raise UserError("--model and --threads are for an exported graph: add --engine onnx, or leave them out")
    elif not find_spec("mindspore"):
        raise UserError("no package mindspore: python -m pip install -r requirements-serve.txt, or use --engine onnx")
    else:
        check_model(config, args.checkpoint)
    try:
        from coupalign.inference.exported import OnnxPredictor
        from coupalign.inference.predictor import Predictor
        from coupalign.service.guard import Limits
        from coupalign.service.server import serve
    except ImportError as error:
        file = "deploy/requirements-serve.txt" if onnx else "requirements-serve.txt"
        raise UserError(f"no package {error.name}: python -m pip install -r {file}") from error

    def load() -> OnnxPredictor | Predictor:
        if onnx:
            return OnnxPredictor(config, args.model, args.threads)
        return Predictor(args.checkpoint, config=config, keep_graph=True)

    limits = Limits(args.max_requests, args.timeout, key)
    serve(load, args.host, args.port, 1 if onnx else args.batch_pairs, limits)
    return 0


def _check_onnx(argv: Argv, args: argparse.Namespace) -> None:
    """Refuses what a graph cannot follow, because export.py fixed it. Raises: UserError."""
    if not args.model:
        raise UserError("--engine onnx needs --model FILE: pass the .onnx of export.py --file_format ONNX")
    if args.checkpoint != _CHECKPOINT or args.batch_pairs != _BATCH_PAIRS:
        raise UserError("--checkpoint and --batch_pairs are for --engine mindspore: leave them out")
    if args.threads < 0:
        raise UserError(f"--threads is {args.threads}: give a number of threads, or 0 for one per core")
    try:
        parse_arguments(__doc__, argv, OPTIONS, keys=["vocab_file"])
    except UserError as error:
        raise UserError(f"with --engine onnx, {error}") from error
    check_exists(args.model, "--model")
    if not find_spec("onnxruntime"):
        raise UserError("no package onnxruntime: python -m pip install -r deploy/requirements-serve.txt")


def read_key(path: Path) -> str:
    """The key in a file. Raises: UserError if it is too short to be one."""
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--api_key_file {path} cannot be read as ASCII text: write a key into it") from error
    if len(key) < 16:
        raise UserError(f"--api_key_file {path} holds {len(key)} characters: write a random key of 16 or more")
    return key
