#!/usr/bin/env bash
# Trains and evaluates the rows of an ablation study.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

usage() {
    cat <<'END'
Usage: bash scripts/run_study.sh STUDY DATA_DIR OUTPUT_DIR [--no-install] [argument of study.py …]

  STUDY       YAML file of the study, such as configs/ablations/refshapes.yaml
  DATA_DIR    directory of a data set made by prepare_data.py
  OUTPUT_DIR  directory of the runs and results.md; finished runs are skipped, unfinished ones are resumed
  --no-install  install nothing; name what is missing
  argument    --only table4, --tables_only, or --key value for all rows, such as --device_target GPU

The output of study.py is also kept in logs/study_<time>.log. The exit code is that of study.py: 0 all runs are done, 1 a
run failed, 2 a mistake to correct, 130 and 143 stopped by Ctrl-C and SIGTERM with the training's state saved.
END
}

handle_help "$@"
need_arguments "STUDY, DATA_DIR and OUTPUT_DIR" 3 "$@"
study=$1 data=$2 output=$3
need_file "study file" "$study"
need_data "$data"
study=$(realpath "$study") data=$(realpath "$data") output=$(realpath -m "$output")

prepare_environment requirements.txt
run_logged study study.py --study "$study" --data_dir "$data" --output_dir "$output" "${@:4}"
