"""Train and evaluate the rows of an ablation study and compare them with the paper's figures.

Each row is trained with each of its seeds, one after another, each in its own processes, and evaluated on eval_splits.
Runs that are done are skipped, and interrupted ones are resumed: after SIGTERM or Ctrl-C the training saves and the
study ends; the same command continues it. results.csv and results.md are written after each run. A row that fails does
not stop the others; the exit code is then 1.

--key value applies to every row; a row's own keys take precedence. The study file names the configuration (base).

    python study.py --study configs/ablations/refshapes.yaml --data_dir data/refshapes --output_dir runs/study
    python study.py --study configs/ablations/refshapes.yaml --output_dir runs/study --only table4
"""

from __future__ import annotations

from coupalign.checks import check_data
from coupalign.cli import Argv, command, option, parse_arguments
from coupalign.files import check_directory

OPTIONS = [
    option("--study FILE", "YAML file of the study", required=True),
    option("--only NAME", "a table, a row, or row/seed (default: all)", default=""),
    option("--tables_only", "train nothing; write the tables of finished runs"),
]


@command
def main(argv: Argv = None) -> int:
    from coupalign.study.plan import read_study

    config, args = parse_arguments(__doc__, argv, OPTIONS, base=lambda own: read_study(own.study).base)
    study, output, code = read_study(args.study), check_directory(config.run.output_dir), 0
    runs = study.runs(args.only)
    if not args.tables_only:
        check_data(config, [config.training.train_split, config.training.val_split, *config.evaluation.eval_splits])
    from coupalign.study.report import write_results
    from coupalign.study.runner import train_missing

    if not args.tables_only:
        code = train_missing(study, runs, config, lambda: write_results(study, output))
    print(*write_results(study, output), sep="\n")
    return code
