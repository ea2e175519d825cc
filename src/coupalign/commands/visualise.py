"""Draw pictures of data, evaluations, predictions and trainings.

Sub-commands (each has --help):

data           samples of a prepared data set with their masks and expressions
gallery        best, median and worst cases of an evaluation (Figure 3)
alignment      word-pixel attention, gates and weighted masks of one prediction (Figure 4)
failures       samples with IoU below 0.5, by tenths, of several evaluations side by side (Table 2)
curves         losses, scores, learning rate and speed of trainings

python visualise.py gallery runs/refcoco/eval/val.json
"""

from __future__ import annotations

import sys
from pathlib import Path

from coupalign.checks import check_data, check_exists, check_model
from coupalign.cli import CHECKPOINT, DATA_KEYS, MODEL_KEYS, Argv, command, option, parse_arguments, parse_own_arguments
from coupalign.errors import UserError
from coupalign.files import check_writable

OUTPUT = "--output FILE.png"


def _data(argv: Argv) -> None:
    """Show samples of a prepared data set with their masks and all expressions, to check that they fit.

    python visualise.py data --dataset refcoco --data_dir data/refcoco
    """
    options = [
        option("--split NAME", "split to draw samples from", default="val"),
        option("--samples INT", "number of referents, drawn by the seed", default=12),
        option(OUTPUT, "the picture", default="data.png"),
    ]
    keys = [*DATA_KEYS, "seed", "max_tokens"]
    config, args = parse_arguments(_data.__doc__, argv, options, keys=keys)
    output = _png(args.output)
    _check_count("--samples", args.samples)
    check_data(config, [args.split])
    from coupalign.visual.figures import save
    from coupalign.visual.gallery import draw_samples

    save(draw_samples(config, args.split, args.samples), output)
    print(output)


def _gallery(argv: Argv) -> None:
    """Show the best, median and worst cases of an evaluation: image, expression, target, prediction, IoU, family.

    The checkpoint that was evaluated predicts every mask again, at the evaluation's threshold and resolution. The
    command stops if an IoU differs from the evaluation's.

        python visualise.py gallery runs/refcoco/eval/val.json
    """
    from coupalign.visual.evaluations import read_evaluation

    options = [
        option("evaluation EVAL.json", "<split>.json of eval.py, with its CSV file beside it"),
        option("--checkpoint FILE", "checkpoint that was evaluated (default: the one that the evaluation names)"),
        option("--cases INT", "cases in each group", default=6),
        option(OUTPUT, "the picture (default: <split>-gallery.png beside the evaluation)"),
    ]
    keys = ["device_target", "precision", "cpu_kernels", "data_dir", "vocab_file", "num_workers", "prefetch"]
    config, args = parse_arguments(
        _gallery.__doc__, argv, options, base=lambda own: read_evaluation(own.evaluation).content["config"], keys=keys
    )
    _check_count("--cases", args.cases)
    evaluation = read_evaluation(args.evaluation)
    checkpoint = evaluation.checkpoint(args.checkpoint)
    output = _png(args.output or evaluation.path.with_name(f"{evaluation.path.stem}-gallery.png"))
    check_data(config, [evaluation.content["split"]])
    from coupalign.visual.cases import predict_cases
    from coupalign.visual.figures import save
    from coupalign.visual.gallery import draw_gallery

    save(draw_gallery(evaluation, predict_cases(evaluation, config, checkpoint, args.cases)), output)
    print(output)


def _alignment(argv: Argv) -> None:
    """Show how a prediction was made, as one picture.

    The picture has the attention of pixels over words and of words over pixels for each stage and word, the openings
    of the gates, and the N masks by their weight.

        python visualise.py alignment --checkpoint runs/refcoco/best.ckpt --image street.jpg --expression "left cup"
    """
    options = [
        CHECKPOINT,
        option("--image FILE", "image to segment", required=True),
        option("--expression TEXT", "what to find", required=True),
        option(OUTPUT, "the picture", default="alignment.png"),
    ]
    config, args = parse_arguments(_alignment.__doc__, argv, options, keys=MODEL_KEYS)
    output, image = _png(args.output), check_exists(args.image, "--image")
    check_model(config, args.checkpoint)
    from coupalign.data.images import load_image
    from coupalign.inference.predictor import Predictor
    from coupalign.visual.alignment import draw_alignment
    from coupalign.visual.figures import save

    rgb = load_image(image)
    prediction = Predictor(args.checkpoint, config=config).predict(rgb, args.expression, details=True)
    size, threshold = f"{rgb.shape[1]}×{rgb.shape[0]} pixels", config.evaluation.threshold
    about = f"{image.name}, {size}; {args.checkpoint}; threshold {threshold}"
    if prediction.nothing_fits:
        about += f"; {prediction.warnings[0]}"
    save(draw_alignment(rgb, args.expression, prediction, about), output)
    print(output)


def _failures(argv: Argv) -> None:
    """Compare how badly failures fail: samples with IoU below 0.5, by tenths of IoU, of one or several evaluations.

    Prints a table in Markdown.

        python visualise.py failures runs/a/eval/val.json runs/b/eval/val.json
    """
    args = parse_own_arguments(
        _failures.__doc__, argv, [option("evaluations EVAL.json", "<split>.json of eval.py", nargs="+")]
    )
    from coupalign.visual.evaluations import failures_table, read_evaluation

    print(failures_table([read_evaluation(path) for path in args.evaluations]))


def _curves(argv: Argv) -> None:
    """Draw losses, oIoU and mIoU, learning rate and speed of one or several trainings in one picture.

    python visualise.py curves runs/a runs/b
    """
    options = [
        option("runs RUN", "output_dir of a training", nargs="+"),
        option(OUTPUT, "the picture", default="curves.png"),
    ]
    args = parse_own_arguments(_curves.__doc__, argv, options)
    output, runs = _png(args.output), [check_exists(run, "the runs") for run in args.runs]
    from coupalign.visual.curves import save_curves

    save_curves(runs, output)
    print(output)


def _check_count(name: str, count: int) -> None:
    if count < 1:
        raise UserError(f"{name} {count}: give 1 or more")


def _png(path: str | Path) -> Path:
    if Path(path).suffix != ".png":
        raise UserError(f"--output {path}: expected a file name that ends in .png")
    return check_writable(path)


SUBCOMMANDS = {"data": _data, "gallery": _gallery, "alignment": _alignment, "failures": _failures, "curves": _curves}


@command
def main(argv: Argv = None) -> int:
    name, *rest = (sys.argv[1:] if argv is None else list(argv)) or ["no sub-command"]
    if name in ("-h", "--help"):
        print(__doc__.strip())
        return 0
    if name not in SUBCOMMANDS:
        raise UserError(f"{name!r} is not a sub-command: give one of {', '.join(SUBCOMMANDS)} (--help describes them)")
    sys.argv[0] += f" {name}"  # for usage lines
    SUBCOMMANDS[name](rest)
    return 0
