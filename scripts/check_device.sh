#!/usr/bin/env bash
# Checks a device before a long training.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

usage() {
    cat <<'END'
Usage: bash scripts/check_device.sh DEVICE [--no-install] [--key value …]

  DEVICE    CPU, GPU or Ascend
  --no-install  install nothing; name what is missing
  --key value  any argument of check_device.py, for instance --precision fp16

The table is also kept in logs/check_device_<time>.log, and the results in device_check.json. The exit code is that of
check_device.py: 0 passed, 1 a row failed, 2 a mistake to correct.
END
}

handle_help "$@"
need_arguments DEVICE 1 "$@"
device=$1
need_device "$device"

prepare_environment requirements.txt
run_logged check_device check_device.py --device_target "$device" "${@:2}"
