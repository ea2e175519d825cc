#!/usr/bin/env bash
# Runs an exported graph on a split with the C++ program, and scores it.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

usage() {
    cat <<'END'
Usage: bash scripts/run_infer_310.sh MINDIR CONFIG DATA_DIR [DEVICE_TYPE] [DEVICE_ID] [OPTION…] [--key value …]

  MINDIR       graph of export.py for batch 1, with its .json beside it, made by the MindSpore of Lite's version
  CONFIG       config.yaml of the training
  DATA_DIR     directory of a data set made by prepare_data.py
  DEVICE_TYPE  Ascend (310, 310P and others) or CPU; default Ascend
  DEVICE_ID    number of the Ascend device; default 0
  --chunk_mb MB  disk space for inputs and results, in MB (default: 900): samples are run in chunks of this size
  --no-install   install nothing; name what is missing
  --key value    any key of the configuration, for instance --eval_limit 50

SPLIT names the split; default val. MS_LITE_HOME names the directory of MindSpore Lite (its unpacked tar.gz, or the
package mindspore_lite of its wheel); OpenCV_ROOT that of OpenCV, if it is not installed in the system; THREADS the
number of CPU threads. Builds ascend310_infer/, and prepares, runs and scores the samples, one sample first to try the
device. Results: runs/infer_310
END
}

handle_help "$@"
need_arguments "MINDIR, CONFIG and DATA_DIR" 3 "$@"
model=$1 config=$2 data=$3 device=Ascend id=0 chunk_mb=900 keys=()
shift 3
if (($#)) && [[ $1 != -* ]]; then device=$1; shift; fi
if (($#)) && [[ $1 != -* ]]; then id=$1; shift; fi
while (($#)); do
    case $1 in
        --chunk_mb=*) chunk_mb=${1#*=} ;;
        --chunk_mb) chunk_mb=${2:-}; shift $(($# > 1)) ;;
        *) keys+=("$1") ;;
    esac
    shift
done
[[ $device == CPU || $device == Ascend ]] || fail "DEVICE_TYPE is $device: choose Ascend or CPU"
[[ $id =~ ^[0-9]+$ ]] || fail "DEVICE_ID is $id: give a whole number"
[[ $chunk_mb =~ ^[1-9][0-9]{0,8}$ ]] || fail "--chunk_mb is $chunk_mb: give a number of MB"
need_file graph "$model" "make it with export.py"
need_file description "${model%.mindir}.json" "export.py writes it beside $model"
need_file "configuration file" "$config"
need_data "$data"
[[ -d ${MS_LITE_HOME:-} ]] || fail "MS_LITE_HOME is no directory: let it name that of MindSpore Lite (--help)"
model=$(realpath "$model") config=$(realpath "$config") data=$(realpath "$data")
MS_LITE_HOME=$(realpath "$MS_LITE_HOME")
export MS_LITE_HOME
[[ -z ${OpenCV_ROOT:-} ]] || OpenCV_ROOT=$(realpath "$OpenCV_ROOT")

prepare_environment requirements.txt
split=${SPLIT:-val}
output=runs/infer_310
root=$PWD

rm -rf "$output"
mkdir -p "$output/time_Result"
# Of each sample: the graph's inputs, and a probability map of float32.
bytes=$(python -c 'import json, math, sys
graph = json.load(open(sys.argv[1]))
print(sum(4 * math.prod(each["shape"]) for each in graph["inputs"]) + 4 * graph["image"]["size"] ** 2)' \
    "${model%.mindir}.json")
chunk=$((chunk_mb * 1000000 / bytes))
((chunk > 0)) || chunk=1
free=$(($(df --output=avail -B1000000 "$output" | tail -n 1)))
echo "== Chunks of $chunk samples need $((chunk * bytes / 1000000 + 1)) MB in $output; $free MB are free"
((free > chunk * bytes / 1000000 + 100)) || fail "too little space in $root/$output: lower --chunk_mb or free some space"

echo "== Building ascend310_infer"
bash ascend310_infer/build.sh | { grep -E "warning|error|Built target" || true; }

if [[ -n ${OpenCV_ROOT:-} ]]; then
    LD_LIBRARY_PATH=$(find "$OpenCV_ROOT" -name '*.so*' -printf '%h\n' | sort -u | tr '\n' ':')${LD_LIBRARY_PATH:-}
    export LD_LIBRARY_PATH
fi
offset=0
size=1  # one sample first, to try the device
while [[ ! -f $output/scores/$split.json ]]; do
    echo "== Running on $device: $split from sample $offset"
    rm -rf "$output/inputs" "$output/result_Files"
    python preprocess.py --config "$config" --data_dir "$data" --mindir_path "$model" --split "$split" \
        --output "$output/inputs" --offset "$offset" --samples "$size" "${keys[@]}"
    (cd "$output" && "$root/ascend310_infer/build/coupalign" --mindir_path "$model" --device_type "$device" \
        --device_id "$id" --threads "${THREADS:-2}" \
        --input0_path inputs/00_image --input1_path inputs/01_token_ids --input2_path inputs/02_token_mask)
    cat "$output/time_Result/test_perform_static.txt" >>"$output/time_Result/chunks.txt"
    python postprocess.py --config "$config" --data_dir "$data" --split "$split" \
        --result_path "$output/result_Files" --counts "$output/counts.npy" --output "$output/scores" "${keys[@]}"
    offset=$((offset + size))
    size=$chunk
done
rm -rf "$output/inputs" "$output/result_Files"
cat "$output/time_Result/chunks.txt"
