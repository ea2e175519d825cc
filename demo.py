"""A page on which to try a model: choose an image, say what to find, see the mask.

    python demo.py
    python demo.py --checkpoint runs/refcoco/best.ckpt --port 8080
    python demo.py --engine lite --mindir coupalign.mindir

It needs what requirements-demo.txt lists. Nobody but this machine can open it unless --host says otherwise.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from coupalign.cli import command, parse_arguments
from coupalign.errors import UserError


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        default="assets/refshapes/best.ckpt",
        metavar="FILE",
        help="trained model (.ckpt; default: the one for RefShapes that comes with the repository)",
    )
    parser.add_argument(
        "--engine", choices=("mindspore", "lite"), default="mindspore", help="what runs the model (default: mindspore)"
    )
    parser.add_argument("--mindir", metavar="FILE", help="with --engine lite: the model, exported by export.py")
    parser.add_argument(
        "--lite_python",
        default=".lite/python/bin/python",
        metavar="FILE",
        help="Python that has MindSpore Lite, as scripts/set_up_lite.sh makes it (default: .lite/python/bin/python)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen at; 0.0.0.0 is open to the network (default: 127.0.0.1)",
    )
    parser.add_argument("--port", type=int, default=7860, metavar="INT", help="0 is any free one (default: 7860)")


@command
def main(argv: Sequence[str] | None = None) -> int:
    config, args = parse_arguments(__doc__, argv, _add)
    if (args.engine == "lite") != bool(args.mindir):
        raise UserError("--engine lite and --mindir FILE go together: give both or neither")
    from coupalign.demo.engines import LiteEngine, MindSporeEngine
    from coupalign.demo.serve import serve

    lite = args.engine == "lite"
    engine = LiteEngine(config, args.mindir, args.lite_python) if lite else MindSporeEngine(config, args.checkpoint)
    try:
        serve(engine, args.host, args.port)
    finally:
        engine.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
