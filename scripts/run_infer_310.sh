#!/usr/bin/env bash
# Runs an exported graph on a split with the C++ program, and scores it.
set -euo pipefail

usage() {
    cat <<'END'
Usage: bash scripts/run_infer_310.sh MINDIR CONFIG DATA_DIR [DEVICE_TYPE] [DEVICE_ID] [--key value …]

  MINDIR       graph of export.py for batch 1, with its .json beside it, made by the MindSpore of Lite's version
  CONFIG       config.yaml of the training
  DATA_DIR     directory with <split>.mindrecord, made by prepare_data.py
  DEVICE_TYPE  Ascend (310, 310P and others) or CPU; default Ascend
  DEVICE_ID    of the Ascend; default 0
  --key value  any key of the configuration, for instance --eval_limit 50

The split is SPLIT, or val. MS_LITE_HOME names the directory of MindSpore Lite (its tar.gz unpacked, or the package
mindspore_lite of its wheel); OpenCV_ROOT that of OpenCV, where it is not in the system; THREADS those of the CPU.
Builds ascend310_infer/, prepares the samples, runs and scores them. Results: runs/infer_310
END
}

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    usage
    exit 0
fi
if (($# < 3)) || [[ $1 == -* || $2 == -* || $3 == -* ]]; then
    echo "error: MINDIR, CONFIG and DATA_DIR are needed" >&2
    usage >&2
    exit 2
fi
model=$1 config=$2 data=$3 device=Ascend id=0
shift 3
if (($#)) && [[ $1 != -* ]]; then device=$1; shift; fi
if (($#)) && [[ $1 != -* ]]; then id=$1; shift; fi
case $device in
    CPU | Ascend) ;;
    *) echo "error: DEVICE_TYPE is $device: choose Ascend or CPU" >&2; exit 2 ;;
esac
[[ $id =~ ^[0-9]+$ ]] || { echo "error: DEVICE_ID is $id: give a whole number" >&2; exit 2; }
[[ -f $model ]] || { echo "error: no graph $model: make it with export.py" >&2; exit 2; }
[[ -f ${model%.mindir}.json ]] || { echo "error: no ${model%.mindir}.json: export.py writes it beside $model" >&2; exit 2; }
[[ -f $config ]] || { echo "error: no configuration file $config" >&2; exit 2; }
[[ -d $data ]] || { echo "error: no directory $data: make it with prepare_data.py" >&2; exit 2; }
[[ -d ${MS_LITE_HOME:-} ]] || { echo "error: MS_LITE_HOME is no directory: let it name MindSpore Lite's (--help)" >&2; exit 2; }
model=$(realpath "$model") config=$(realpath "$config") data=$(realpath "$data")
MS_LITE_HOME=$(realpath "$MS_LITE_HOME")
export MS_LITE_HOME
[[ -z ${OpenCV_ROOT:-} ]] || OpenCV_ROOT=$(realpath "$OpenCV_ROOT")

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment requirements.txt
split=${SPLIT:-val}
output=runs/infer_310
root=$PWD

echo "== Building ascend310_infer"
bash ascend310_infer/build.sh | { grep -E "warning|error|Built target" || true; }

echo "== Preparing $split in $output/inputs"
rm -rf "$output"
python preprocess.py --config "$config" --data_dir "$data" --mindir_path "$model" --split "$split" \
    --output "$output/inputs" "$@"

echo "== Running on $device"
if [[ -n ${OpenCV_ROOT:-} ]]; then
    LD_LIBRARY_PATH=$(find "$OpenCV_ROOT" -name '*.so*' -printf '%h\n' | sort -u | tr '\n' ':')${LD_LIBRARY_PATH:-}
    export LD_LIBRARY_PATH
fi
(cd "$output" && "$root/ascend310_infer/build/coupalign" --mindir_path "$model" --device_type "$device" \
    --device_id "$id" --threads "${THREADS:-2}" \
    --input0_path inputs/00_image --input1_path inputs/01_token_ids --input2_path inputs/02_token_mask)

echo "== Scoring"
python postprocess.py --config "$config" --data_dir "$data" --split "$split" --result_path "$output/result_Files" \
    --output "$output/scores" "$@"
cat "$output/time_Result/test_perform_static.txt"
