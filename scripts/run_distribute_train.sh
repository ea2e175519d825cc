#!/usr/bin/env bash
# Trains on several devices, of one machine or of several.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
# shellcheck source=scripts/distributed.sh
source "$(dirname "${BASH_SOURCE[0]}")/distributed.sh"

usage() {
    cat <<'END'
Usage: bash scripts/run_distribute_train.sh DEVICE COUNT CONFIG DATA_DIR [OPTION…] [--key value …]

  DEVICE    CPU, GPU or Ascend
  COUNT     devices of this machine to use; with several machines, of each
  CONFIG    YAML file with what differs from default_config.yaml; its batch_size is that of all devices together
  DATA_DIR  directory of a data set made by prepare_data.py
END
    distributed_options
}

handle_help "$@"
need_arguments "DEVICE, COUNT, CONFIG and DATA_DIR" 4 "$@"
device=$1 config=$3 data=$4
parse_job "$1" "$2" "${@:5}"
need_file "configuration file" "$config"
need_data "$data"
config=$(realpath "$config") data=$(realpath "$data")

prepare_environment requirements.txt
program=(train.py --config "$config" --data_dir "$data" --device_target "$device" "${keys[@]}")
python "${program[@]}" --check $((count * nodes))
run_ranks distributed "${program[@]}"
