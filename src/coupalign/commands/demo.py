"""Serve a web page to try a model on: choose an image, say what to find, see the mask.

    python demo.py
    python demo.py --checkpoint runs/refcoco/best.ckpt --port 8080
    python demo.py --engine lite --mindir coupalign.mindir

Install requirements-demo.txt first. Only this machine can open the page unless --host says otherwise.
"""

from __future__ import annotations

import signal
import threading

from coupalign.checks import check_exists, check_model
from coupalign.cli import MODEL_KEYS, Argv, command, option, parse_arguments
from coupalign.errors import UserError

OPTIONS = [
    option("--checkpoint FILE", "trained model, .ckpt or .safetensors", default="assets/refshapes/model.safetensors"),
    option("--engine mindspore|lite", "what runs the model", default="mindspore"),
    option("--mindir FILE", "with --engine lite: the model exported by export.py, with its .json"),
    option("--lite_python FILE", "Python of scripts/set_up_lite.sh", default=".lite/python/bin/python"),
    option("--host ADDRESS", "address to listen on; 0.0.0.0 opens the page to the network", default="127.0.0.1"),
    option("--port INT", "1024 to 65535, or 0 for any free port", default=7860),
]


@command
def main(argv: Argv = None) -> int:
    config, args = parse_arguments(__doc__, argv, OPTIONS, keys=MODEL_KEYS)
    if (args.engine == "lite") != bool(args.mindir):
        raise UserError("--engine lite and --mindir FILE belong together: give both or neither")
    if args.mindir:
        check_exists(args.mindir, "--mindir")
        check_exists(args.lite_python, "--lite_python (scripts/set_up_lite.sh installs it)")
    else:
        check_model(config, args.checkpoint)
    from coupalign.demo.engines import LiteEngine, MindSporeEngine
    from coupalign.demo.serve import served

    lite = LiteEngine(config, args.mindir, args.lite_python) if args.mindir else None
    engine = lite or MindSporeEngine(config, args.checkpoint)
    try:
        with served(engine, args.host, args.port) as url:
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # removes the uploads then too
            print(f"{url}  (press Ctrl-C to stop)", flush=True)
            threading.Event().wait()
    finally:
        engine.close()
    return 0
