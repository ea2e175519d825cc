#!/usr/bin/env bash
# Trains on several devices, of one machine or of several.
set -euo pipefail

usage() {
    cat <<'END'
Usage: bash scripts/run_distribute_train.sh DEVICE COUNT CONFIG DATA_DIR
           [--nodes N --node_rank R --master HOST[:PORT]] [--time_out SECONDS] [--key value …]

  DEVICE    CPU, GPU or Ascend
  COUNT     devices of this machine that take part; on several machines, of each
  CONFIG    YAML file with what differs from default_config.yaml; batch_size in it is that of all devices together
  DATA_DIR  directory with <split>.mindrecord, made by prepare_data.py
  --nodes N --node_rank R --master HOST[:PORT]
            for several machines, where this is started on each: their number, the number of this one from 0, and the
            machine with number 0 (port 8118 if none is given). output_dir has to be a directory they share
  --time_out SECONDS  how long to wait for all to arrive (default: 600)
  --key value  any key of the configuration, for instance --output_dir runs/mine --resume auto

Makes .venv and installs requirements.txt where they are missing, and trains with msrun. What rank 0 prints is shown;
logs/distributed_<time>/worker_<rank>.log keep what each does. A rank that fails ends the job, and the last lines of its
log are shown. The exit code is 0 if all ranks trained, 130 and 143 if they were stopped by Ctrl-C and SIGTERM with the
state saved (asked a second time, they are killed), or that of the rank that failed first: 2 is something to mend.
END
}

fail() {
    echo "error: $1" >&2
    exit 2
}

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    usage
    exit 0
fi
if (($# < 4)) || [[ $1 == -* || $2 == -* || $3 == -* || $4 == -* ]]; then
    echo "error: DEVICE, COUNT, CONFIG and DATA_DIR are needed" >&2
    usage >&2
    exit 2
fi
device=$1 count=$2 config=$3 data=$4
shift 4
declare -A job=([nodes]=1 [node_rank]=0 [master]="" [time_out]=600)
keys=()
while (($#)); do
    name=${1%%=*}
    case $name in
        --nodes | --node_rank | --master | --time_out)
            [[ $1 == *=* ]] && set -- "$name" "${1#*=}" "${@:2}"
            (($# > 1)) || fail "$name needs a value"
            job[${name#--}]=$2
            shift 2
            ;;
        *)
            keys+=("$1")
            shift
            ;;
    esac
done
nodes=${job[nodes]} node_rank=${job[node_rank]} time_out=${job[time_out]}
master=${job[master]%:*} port=8118
[[ ${job[master]} == *:* ]] && port=${job[master]##*:}
case $device in
    CPU | GPU | Ascend) ;;
    *) fail "DEVICE is $device: choose CPU, GPU or Ascend" ;;
esac
[[ $count =~ ^[1-9][0-9]{0,5}$ ]] || fail "COUNT is $count: give the number of devices of this machine"
[[ $nodes =~ ^[1-9][0-9]{0,5}$ ]] || fail "--nodes is $nodes: give the number of machines"
[[ $node_rank =~ ^(0|[1-9][0-9]{0,5})$ ]] || fail "--node_rank is $node_rank: give a number from 0"
((node_rank < nodes)) || fail "--node_rank is $node_rank: the $nodes machines have numbers from 0 to $((nodes - 1))"
((nodes == 1)) || [[ -n $master ]] || fail "--master is missing: give the host name of the machine with --node_rank 0"
if [[ ! $port =~ ^[1-9][0-9]{3,4}$ ]] || ((port < 1024 || port > 65535)); then
    fail "--master is ${job[master]}: give HOST or HOST:PORT, with a port from 1024 to 65535"
fi
[[ $time_out =~ ^[1-9][0-9]{0,5}$ ]] || fail "--time_out is $time_out: give a number of seconds"
[[ -f $config ]] || fail "no configuration file $config"
[[ -d $data ]] || fail "no directory $data: make it with prepare_data.py"
config=$(realpath "$config") data=$(realpath "$data")

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment requirements.txt

if [[ -z $master ]]; then
    master=127.0.0.1
    port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
fi
logs=$PWD/logs/distributed_$(date +%Y%m%d_%H%M%S)_$$
mkdir -p "$logs"
touch "$logs"/{processes,codes}
echo "== Training on $((count * nodes)) devices; logs of each rank in $logs"

# A session of its own, since msrun kills the ranks at Ctrl-C: they are asked below, and save first.
setsid msrun --worker_num="$((count * nodes))" --local_worker_num="$count" --node_rank="$node_rank" \
    --master_addr="$master" --master_port="$port" --cluster_time_out="$time_out" --log_dir="$logs" --join=True \
    --tail_worker_log="$((count * nodes))" \
    scripts/rank.py "$logs" train.py --config "$config" --data_dir "$data" --device_target "$device" "${keys[@]}" \
    >"$logs/msrun.log" 2>&1 &
msrun=$!
if ((node_rank == 0)); then
    tail --pid="$msrun" -s 0.5 -n +1 -F "$logs/worker_0.log" 2>/dev/null &
fi

# Processes that scripts/rank.py has written down, whose names begin with $1.
processes() {
    awk -v name="$1" 'index($1, name) == 1 { print $2 }' "$logs/processes"
}

# Name and code of the first rank that neither trained to the end nor was stopped.
failure() {
    awk '$2 != 0 && $2 != 130 && $2 != 143 { print; exit }' "$logs/codes"
}

asked="" told=""
ask() {
    # msrun kills its ranks at Ctrl-C.
    [[ -z $asked ]] || kill -INT "$msrun" 2>/dev/null || true
    asked=${asked:-$1}
}
trap 'ask INT' INT
trap 'ask TERM' TERM

while kill -0 "$msrun" 2>/dev/null; do
    if [[ -n $asked ]]; then
        for process in $(processes worker); do
            [[ $told == *" $process "* ]] || kill -"$asked" "$process" 2>/dev/null || true
            told+=" $process "
        done
    fi
    # When a rank has failed msrun kills the others, but would wait for the scheduler to miss them.
    [[ -z $(failure) ]] || kill -KILL "$(processes scheduler)" 2>/dev/null || true
    sleep 0.5 &
    wait $! || true
done
code=0
wait "$msrun" || code=$?
wait

read -r rank failed < <(failure) || true
if [[ -n ${failed:-} ]]; then
    echo "error: $rank ended with exit code $failed; the end of $logs/$rank.log:" >&2
    tail -n 20 "$logs/$rank.log" >&2
    exit "$failed"
fi
stopped=$(awk '$2 != 0 { print $2; exit }' "$logs/codes")
[[ -z $stopped ]] || exit "$stopped"
[[ -z $asked ]] || exit $((128 + $(kill -l "$asked")))
if (($(wc -l <"$logs/codes") < count)); then
    for process in $(processes worker); do
        kill -KILL -- "-$process" 2>/dev/null || true
    done
    echo "error: msrun ended with exit code $code before all ranks did; the end of $logs/msrun.log:" >&2
    tail -n 20 "$logs/msrun.log" >&2
    exit $((code ? code : 1))
fi
