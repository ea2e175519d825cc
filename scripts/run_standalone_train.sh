#!/usr/bin/env bash
# Trains on one device.
set -euo pipefail

usage() {
    cat <<'END'
Usage: bash scripts/run_standalone_train.sh DEVICE CONFIG DATA_DIR [--key value …]

  DEVICE    CPU, GPU or Ascend
  CONFIG    YAML file with what differs from default_config.yaml
  DATA_DIR  directory with <split>.mindrecord, made by prepare_data.py
  --key value  any key of the configuration, for instance --output_dir runs/mine --resume auto

Makes .venv and installs requirements.txt where they are missing, and trains. What train.py prints is also kept in
logs/standalone_<time>.log. The exit code is train.py's: 0 trained, 2 something to mend, 130 and 143 stopped by
Ctrl-C and SIGTERM with the state saved.
END
}

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    usage
    exit 0
fi
if (($# < 3)) || [[ $1 == -* || $2 == -* || $3 == -* ]]; then
    echo "error: DEVICE, CONFIG and DATA_DIR are needed" >&2
    usage >&2
    exit 2
fi
device=$1 config=$2 data=$3
shift 3
case $device in
    CPU | GPU | Ascend) ;;
    *) echo "error: DEVICE is $device: choose CPU, GPU or Ascend" >&2; exit 2 ;;
esac
[[ -f $config ]] || { echo "error: no configuration file $config" >&2; exit 2; }
[[ -d $data ]] || { echo "error: no directory $data: make it with prepare_data.py" >&2; exit 2; }
config=$(realpath "$config") data=$(realpath "$data")

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment requirements.txt

mkdir -p logs
log=logs/standalone_$(date +%Y%m%d_%H%M%S)_$$.log
echo "== Training; also in $log"
# exec keeps the process id, so that a signal sent to this script reaches train.py, which saves before it ends; tee
# ignores Ctrl-C, so that nothing of that is lost.
exec python train.py --config "$config" --data_dir "$data" --device_target "$device" "$@" \
    > >(trap '' INT TERM; tee -a "$log") 2> >(trap '' INT TERM; tee -a "$log" >&2)
