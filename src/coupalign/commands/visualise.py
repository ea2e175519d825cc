"""Draw pictures of evaluations, predictions and trainings. The sub-commands, each with --help:

gallery        best, median and worst cases of an evaluation, as a picture and as an HTML page (Figure 3)
alignment      word-pixel attention, gates and weighted masks of one prediction (Figure 4)
failures       samples with IoU below 0.5, by tenths, of several evaluations side by side (Table 2)
curves         losses, scores, learning rate and speed of trainings

python visualise.py gallery runs/refcoco/eval/val.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from coupalign.checks import check_data, check_exists, check_model
from coupalign.cli import MODEL_KEYS, command, parse_arguments, parse_own_arguments
from coupalign.errors import UserError
from coupalign.files import atomic_path, check_directory, check_writable

KEYS = ("device_target", "precision", "cpu_kernels", "data_dir", "vocab_file", "num_workers", "prefetch")  # of gallery


def _gallery(argv: Sequence[str]) -> None:
    """Show the best, median and worst cases of an evaluation: image, expression, target, prediction, IoU, family.

    Writes gallery.png and gallery.html. The HTML page needs no other file; its cases can be sorted and filtered. The
    checkpoint that was evaluated predicts every mask again, at the evaluation's threshold and resolution. The command
    stops if an IoU differs from the evaluation's.

        python visualise.py gallery runs/refcoco/eval/val.json
    """

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "evaluation", metavar="EVAL.json", help="<split>.json of eval.py, with its CSV file beside it"
        )
        parser.add_argument(
            "--checkpoint",
            metavar="FILE",
            help="checkpoint that was evaluated (default: the one that the evaluation names)",
        )
        parser.add_argument("--cases", metavar="INT", type=int, default=6, help="cases in each group (default: 6)")
        parser.add_argument(
            "--output",
            metavar="DIR",
            help="directory of the two files (default: <split>-gallery beside the evaluation)",
        )

    from coupalign.visual.evaluations import read_evaluation

    config, args = parse_arguments(
        _gallery.__doc__,
        argv,
        add,
        "gallery",
        lambda own: read_evaluation(own.evaluation).content["config"],
        KEYS,
    )
    if args.cases < 1:
        raise UserError(f"--cases {args.cases}: give 1 or more")
    evaluation = read_evaluation(args.evaluation)
    checkpoint = evaluation.checkpoint(args.checkpoint)
    output = check_directory(args.output or evaluation.path.with_name(f"{evaluation.path.stem}-gallery"))
    check_data(config, [evaluation.content["split"]])
    from coupalign.visual.cases import predict_cases
    from coupalign.visual.figures import save
    from coupalign.visual.gallery import draw_gallery, write_html

    cases = predict_cases(evaluation, config, checkpoint, args.cases)
    save(draw_gallery(evaluation, cases), output / "gallery.png")
    write_html(evaluation, cases, output / "gallery.html")
    print(output / "gallery.png", output / "gallery.html", sep="\n")


def _alignment(argv: Sequence[str]) -> None:
    """Show how a prediction was made, as one picture.

    The picture has the attention of pixels over words and of words over pixels for each stage and word, the openings
    of the gates, and the N masks by their weight. A text file beside it has the expression and the numbers.

        python visualise.py alignment --checkpoint runs/refcoco/best.ckpt --image street.jpg --expression "left cup"
    """

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--checkpoint", required=True, metavar="FILE", help="trained model (.ckpt)")
        parser.add_argument("--image", required=True, metavar="FILE", help="image to segment")
        parser.add_argument("--expression", required=True, metavar="TEXT", help="what to find")
        parser.add_argument(
            "--output", default="alignment.png", metavar="FILE.png", help="the picture (default: alignment.png)"
        )

    config, args = parse_arguments(_alignment.__doc__, argv, add, "alignment", keys=MODEL_KEYS)
    output, image = _png(args.output), check_exists(args.image, "--image")
    check_model(config, args.checkpoint)
    from coupalign.data.images import load_image
    from coupalign.inference import Predictor
    from coupalign.visual.alignment import as_text, draw_alignment
    from coupalign.visual.figures import save

    rgb = load_image(image)
    prediction = Predictor(args.checkpoint, config=config).predict(rgb, args.expression, proposals=True)
    about = (
        f"{image.name}, {rgb.shape[1]}×{rgb.shape[0]} pixels; {args.checkpoint}; threshold "
        f"{config.evaluation.threshold}"
    )
    save(draw_alignment(rgb, args.expression, prediction, about), output)
    with atomic_path(f"{output}.txt") as temporary:
        temporary.write_text(as_text(args.expression, prediction, about), encoding="utf-8")
    print(output, f"{output}.txt", sep="\n")


def _failures(argv: Sequence[str]) -> None:
    """Compare how badly failures fail: samples with IoU below 0.5, by tenths of IoU, of one or several evaluations.

    Prints the table and writes failures.png, failures.md and failures.csv.

        python visualise.py failures runs/a/eval/val.json runs/b/eval/val.json --name ours --name theirs
    """

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("evaluations", nargs="+", metavar="EVAL.json", help="<split>.json of eval.py")
        parser.add_argument(
            "--name",
            action="append",
            default=[],
            metavar="TEXT",
            help="name of an evaluation; once for each (default: its data set and split)",
        )
        parser.add_argument(
            "--output",
            metavar="DIR",
            help="directory of the three files (default: failures beside the first evaluation)",
        )

    args = parse_own_arguments(_failures.__doc__, argv, add, "failures")
    from coupalign.visual.evaluations import read_evaluation
    from coupalign.visual.failures import as_csv, as_markdown, draw_failures, failure_rows, protocols
    from coupalign.visual.figures import save

    evaluations = [read_evaluation(path) for path in args.evaluations]
    output = check_directory(args.output or evaluations[0].path.with_name("failures"))
    rows, about = failure_rows(evaluations, args.name), protocols(evaluations)
    save(draw_failures(rows, about), output / "failures.png")
    for name, text in (("failures.md", as_markdown(rows, about)), ("failures.csv", as_csv(rows))):
        with atomic_path(output / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print(as_markdown(rows, about) + f"written to {output}")


def _curves(argv: Sequence[str]) -> None:
    """Draw losses, oIoU and mIoU, learning rate and speed of one or several trainings in one picture.

    python visualise.py curves runs/a runs/b
    """

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("runs", nargs="+", metavar="RUN", help="output_dir of a training")
        parser.add_argument(
            "--output", default="curves.png", metavar="FILE.png", help="the picture (default: curves.png)"
        )

    args = parse_own_arguments(_curves.__doc__, argv, add, "curves")
    output, runs = _png(args.output), [check_exists(run, "the runs") for run in args.runs]
    from coupalign.visual.curves import save_curves

    save_curves(runs, output)
    print(output)


def _png(path: str) -> Path:
    if Path(path).suffix != ".png":
        raise UserError(f"--output {path}: expected a file name that ends in .png")
    return check_writable(path)


SUBCOMMANDS = {
    "gallery": _gallery,
    "alignment": _alignment,
    "failures": _failures,
    "curves": _curves,
}


@command
def main(argv: Sequence[str] | None = None) -> int:
    name, *rest = (sys.argv[1:] if argv is None else list(argv)) or [""]
    if name in ("-h", "--help"):
        print(__doc__.strip())
        return 0
    if name not in SUBCOMMANDS:
        raise UserError(
            f"{f'unknown sub-command {name!r}' if name else 'no sub-command'}: give one of {', '.join(SUBCOMMANDS)} "
            "(--help describes them)"
        )
    SUBCOMMANDS[name](rest)
    return 0
