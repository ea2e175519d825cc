#!/usr/bin/env bash
# Trains and evaluates the rows of an ablation study.
set -euo pipefail

usage() {
    cat <<'END'
Usage: bash scripts/run_study.sh STUDY DATA_DIR OUTPUT_DIR [argument of study.py …]

  STUDY       YAML file of the study, such as configs/ablations/refshapes.yaml
  DATA_DIR    directory with <split>.mindrecord, made by prepare_data.py
  OUTPUT_DIR  where the runs and results.md go; what is done there is skipped, what was begun goes on
  argument    --only table4, --tables_only, --threads 2, or --key value for all rows, such as --device_target GPU

Makes .venv and installs requirements.txt where they are missing, and runs study.py. What it prints is also kept in
logs/study_<time>.log. The exit code is study.py's: 0 all done, 1 a run failed, 2 something to mend, 130 and 143 stopped
by Ctrl-C and SIGTERM with the training's state saved.
END
}

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    usage
    exit 0
fi
if (($# < 3)) || [[ $1 == -* || $2 == -* || $3 == -* ]]; then
    echo "error: STUDY, DATA_DIR and OUTPUT_DIR are needed" >&2
    usage >&2
    exit 2
fi
study=$1 data=$2 output=$3
shift 3
[[ -f $study ]] || { echo "error: no study file $study" >&2; exit 2; }
[[ -d $data ]] || { echo "error: no directory $data: make it with prepare_data.py" >&2; exit 2; }
study=$(realpath "$study") data=$(realpath "$data") output=$(realpath -m "$output")

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment requirements.txt

mkdir -p logs
log=logs/study_$(date +%Y%m%d_%H%M%S)_$$.log
echo "== Study; also in $log"
# As in run_standalone_train.sh: a signal reaches study.py, and tee outlives Ctrl-C.
exec python study.py --study "$study" --data_dir "$data" --output_dir "$output" "$@" \
    > >(trap '' INT TERM; tee -a "$log") 2> >(trap '' INT TERM; tee -a "$log" >&2)
