"""Serve a web page to try a model on: choose an image, say what to find, see the mask.

    python demo.py
    python demo.py --checkpoint runs/refcoco/best.ckpt --port 8080
    python demo.py --engine lite --mindir coupalign.mindir

Install requirements-demo.txt first. Only this machine can open the page unless --host says otherwise.
"""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Sequence

from coupalign.checks import check_exists, check_model
from coupalign.cli import MODEL_KEYS, command, parse_arguments
from coupalign.errors import UserError


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        default="assets/refshapes/best.ckpt",
        metavar="FILE",
        help="trained model (.ckpt; default: the repository's model for RefShapes)",
    )
    parser.add_argument(
        "--engine", choices=("mindspore", "lite"), default="mindspore", help="what runs the model (default: mindspore)"
    )
    parser.add_argument(
        "--mindir", metavar="FILE", help="with --engine lite: the model exported by export.py, with its .json"
    )
    parser.add_argument(
        "--lite_python",
        default=".lite/python/bin/python",
        metavar="FILE",
        help="Python that has MindSpore Lite; scripts/set_up_lite.sh installs it (default: .lite/python/bin/python)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on; 0.0.0.0 opens the page to the network (default: 127.0.0.1)",
    )
    parser.add_argument(
        "--port", type=int, default=7860, metavar="INT", help="1024 to 65535, or 0 for any free port (default: 7860)"
    )


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, args = parse_arguments(__doc__, argv, _add, keys=MODEL_KEYS)
    if (args.engine == "lite") != bool(args.mindir):
        raise UserError("--engine lite and --mindir FILE belong together: give both or neither")
    lite = args.engine == "lite"
    if lite:
        check_exists(args.mindir, "--mindir")
        check_exists(args.lite_python, "--lite_python (scripts/set_up_lite.sh installs it)")
    else:
        check_model(config, args.checkpoint)
    from coupalign.demo.engines import LiteEngine, MindSporeEngine
    from coupalign.demo.serve import served

    engine = LiteEngine(config, args.mindir, args.lite_python) if lite else MindSporeEngine(config, args.checkpoint)
    try:
        with served(engine, args.host, args.port) as url:
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # removes the uploads then too
            print(f"{url}  (press Ctrl-C to stop)", flush=True)
            threading.Event().wait()
    finally:
        engine.close()
    return 0
