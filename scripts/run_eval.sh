#!/usr/bin/env bash
# Evaluates a checkpoint on one device.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

usage() {
    cat <<'END'
Usage: bash scripts/run_eval.sh DEVICE CHECKPOINT DATA_DIR [--no-install] [--key value …]

  DEVICE      CPU, GPU or Ascend
  CHECKPOINT  .ckpt file; config.yaml beside it is the configuration, unless --config names another
  DATA_DIR    directory of a data set made by prepare_data.py
  --no-install  install nothing; name what is missing
  --key value  any argument of eval.py, for instance --eval_splits val,testA

The output of eval.py is also kept in logs/eval_<time>.log. The exit code is that of eval.py.
END
}

handle_help "$@"
need_arguments "DEVICE, CHECKPOINT and DATA_DIR" 3 "$@"
device=$1 checkpoint=$2 data=$3
need_device "$device"
need_file checkpoint "$checkpoint"
need_data "$data"
checkpoint=$(realpath -s "$checkpoint") data=$(realpath "$data")

prepare_environment requirements.txt
run_logged eval eval.py --checkpoint "$checkpoint" --data_dir "$data" --device_target "$device" "${@:4}"
