#!/usr/bin/env bash
# Evaluates a checkpoint on several devices, of one machine or of several.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
# shellcheck source=scripts/distributed.sh
source "$(dirname "${BASH_SOURCE[0]}")/distributed.sh"

usage() {
    cat <<'END'
Usage: bash scripts/run_distribute_eval.sh DEVICE COUNT CHECKPOINT DATA_DIR [OPTION…] [--key value …]

  DEVICE      CPU, GPU or Ascend
  COUNT       devices of this machine to use; with several machines, of each
  CHECKPOINT  .ckpt file; config.yaml beside it is the configuration, unless --config names another
  DATA_DIR    directory of a data set made by prepare_data.py
END
    distributed_options
}

handle_help "$@"
need_arguments "DEVICE, COUNT, CHECKPOINT and DATA_DIR" 4 "$@"
device=$1 checkpoint=$3 data=$4
parse_job "$1" "$2" "${@:5}"
need_file checkpoint "$checkpoint"
need_data "$data"
checkpoint=$(realpath -s "$checkpoint") data=$(realpath "$data")

prepare_environment requirements.txt
program=(eval.py --checkpoint "$checkpoint" --data_dir "$data" --device_target "$device" "${keys[@]}")
python "${program[@]}" --check
run_ranks distributed_eval "${program[@]}"
