"""Serve a model over HTTP: POST /v1/segment takes an image and expressions and returns masks.

    python serve.py --checkpoint runs/refcoco/best.ckpt --port 8000
    curl -F image=@street.jpg -F "expressions=the left cup" http://127.0.0.1:8000/v1/segment

Install requirements-serve.txt first. Only this machine can reach the service unless --host says otherwise. /openapi.json
describes it, /healthz and /metrics (Prometheus) watch it.
"""

from __future__ import annotations

from pathlib import Path

from coupalign.checks import check_exists, check_model
from coupalign.cli import MODEL_KEYS, Argv, command, option, parse_arguments
from coupalign.errors import UserError

OPTIONS = [
    option("--checkpoint FILE", "trained model, .ckpt or .safetensors", default="assets/refshapes/best.ckpt"),
    option("--host ADDRESS", "address to listen on; 0.0.0.0 opens the service to the network", default="127.0.0.1"),
    option("--port INT", "1024 to 65535, or 0 for any free port", default=8000),
    option("--api_key_file FILE", "text file with a key that requests must send in the header X-API-Key"),
    option("--batch_pairs INT", "pairs of image and expression per forward pass", default=8),
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
    check_model(config, args.checkpoint)
    try:
        from coupalign.service.server import serve
    except ImportError as error:
        raise UserError(f"no package {error.name}: python -m pip install -r requirements-serve.txt") from error
    from coupalign.service.guard import Limits

    limits = Limits(args.max_requests, args.timeout, key)
    serve(config, args.checkpoint, args.host, args.port, args.batch_pairs, limits)
    return 0


def read_key(path: Path) -> str:
    """The key in a file. Raises: UserError if it is too short to be one."""
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--api_key_file {path} cannot be read as ASCII text: write a key into it") from error
    if len(key) < 16:
        raise UserError(f"--api_key_file {path} holds {len(key)} characters: write a random key of 16 or more")
    return key
