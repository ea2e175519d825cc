#!/usr/bin/env bash
# Trains on one device.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

usage() {
    cat <<'END'
Usage: bash scripts/run_standalone_train.sh DEVICE CONFIG DATA_DIR [--no-install] [--key value …]

  DEVICE    CPU, GPU or Ascend
  CONFIG    YAML file with what differs from default_config.yaml
  DATA_DIR  directory of a data set made by prepare_data.py
  --no-install  install nothing; name what is missing
  --key value  any key of the configuration, for instance --output_dir runs/mine --resume auto

The output of train.py is also kept in logs/standalone_<time>.log. The exit code is that of train.py: 0 trained, 2 a
mistake to correct, 130 and 143 stopped by Ctrl-C and SIGTERM with the state saved.
END
}

handle_help "$@"
need_arguments "DEVICE, CONFIG and DATA_DIR" 3 "$@"
device=$1 config=$2 data=$3
need_device "$device"
need_file "configuration file" "$config"
need_data "$data"
config=$(realpath "$config") data=$(realpath "$data")

prepare_environment requirements.txt
run_logged standalone train.py --config "$config" --data_dir "$data" --device_target "$device" "${@:4}"
