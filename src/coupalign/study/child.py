"""Trains or resumes one run of a study, and evaluates best.ckpt.

Besides the files of train.py, it writes eval/<split>.json and .csv as eval.py does, alignment.csv and, when everything
is done, done.json. It then removes the checkpoints that only resuming needs.
"""

from __future__ import annotations

import csv
import json
import logging
import time
from pathlib import Path

from coupalign.cli import Argv, command, option, parse_arguments
from coupalign.config import Config
from coupalign.files import find_file, write_text
from coupalign.signals import take_signals

OPTIONS = [option("--threads INT", "threads; 0 is MindSpore's own choice", default=0)]


@command
def main(argv: Argv = None) -> int:
    take_signals()  # before NumPy starts threads
    config, args = parse_arguments(__doc__, argv, OPTIONS)
    import mindspore

    from coupalign.devices import set_up
    from coupalign.training import train
    from coupalign.visual.curves import save_curves

    if args.threads:
        mindspore.set_context(runtime_num_threads=args.threads)
    set_up(config.run)
    directory = train(config, progress=False)
    save_curves([directory], directory / "curve.png")
    _finish(config, directory)
    return 0


def _finish(config: Config, directory: Path) -> None:
    """Measures and evaluates a trained model."""
    from coupalign.data.prepared import read_meta
    from coupalign.evaluation.evaluate import evaluate
    from coupalign.inference.graph import PredictAll
    from coupalign.kernels import use_kernels
    from coupalign.model import build_model
    from coupalign.study.alignment import alignment_over_training
    from coupalign.study.runner import DONE

    started, best = time.monotonic(), directory / "best.ckpt"
    model = PredictAll(use_kernels(build_model(config), config.run))
    model.set_train(False)
    alignment_over_training(model, config, directory)
    for result in evaluate(config, best, config.evaluation.eval_splits, progress=False):
        result.save(directory / "eval")
        logging.getLogger("coupalign.study").info(result.table())  # __name__ is __main__
    with open(directory / "curve.csv", newline="", encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    done = {
        "steps": int(last["step"]),
        "samples": int(last["samples"]),
        "training_seconds": float(last["seconds"]),
        "evaluation_seconds": round(time.monotonic() - started, 1),
        "parameters": sum(each.size for each in model.model.get_parameters()),
        "data": read_meta(find_file(config.data.data_dir))["fingerprint"],
    }
    write_text(directory / DONE, json.dumps(done, indent=2) + "\n")
    for path in (*directory.glob("step_*.ckpt"), directory / "last.ckpt"):
        path.unlink()


if __name__ == "__main__":
    raise SystemExit(main())
