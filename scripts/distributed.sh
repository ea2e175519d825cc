# shellcheck shell=bash
# Sourced by run_distribute_*.sh: starts a program on several devices with msrun, of one machine or of several.

distributed_options() {
    cat <<'END'
  --nodes N --node_rank R --master HOST[:PORT]
            for several machines; start this on each: their number, the number of this one from 0, and the name of the
            machine with number 0 (port 8118 by default). output_dir must be a directory that they share
  --time_out SECONDS  how long to wait until all ranks have connected (default: 600)
  --no-install  install nothing; name what is missing
  --key value  any key of the configuration

The output of rank 0 is shown; logs/NAME_<time>/worker_<rank>.log hold that of each rank. A rank that fails ends the job,
and the last lines of its log are shown. Exit codes: 0 all ranks are done; 130 and 143 stopped by Ctrl-C and SIGTERM with
the state saved (a second signal kills the ranks); otherwise the code of the rank that failed first: 2 is a mistake
to correct.
END
}

# Usage: parse_job DEVICE COUNT "$@"; sets count, nodes, node_rank, master, port and time_out, and, with all other
# arguments, keys.
parse_job() {
    local name
    local -A job=([nodes]=1 [node_rank]=0 [master]="" [time_out]=600)
    need_device "$1"
    local device=$1
    count=$2
    shift 2
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
    [[ $count =~ ^[1-9][0-9]{0,5}$ ]] || fail "COUNT is $count: give the number of devices of this machine"
    [[ $nodes =~ ^[1-9][0-9]{0,5}$ ]] || fail "--nodes is $nodes: give the number of machines"
    [[ $node_rank =~ ^(0|[1-9][0-9]{0,5})$ ]] || fail "--node_rank is $node_rank: give a number from 0"
    ((node_rank < nodes)) || fail "--node_rank is $node_rank: the $nodes machines have numbers from 0 to $((nodes - 1))"
    [[ $time_out =~ ^[1-9][0-9]{0,5}$ ]] || fail "--time_out is $time_out: give a number of seconds"
    if [[ ! $port =~ ^[1-9][0-9]{3,4}$ ]] || ((port < 1024 || port > 65535)); then
        fail "--master is ${job[master]}: give HOST or HOST:PORT, with a port from 1024 to 65535"
    fi
    check_visible "$device"
    ((nodes == 1)) || check_master
}

# Usage: check_visible DEVICE; refuses more ranks than devices that the environment shows to programs.
check_visible() {
    local variable value id ids visible=0
    case $1 in
        GPU) variable=CUDA_VISIBLE_DEVICES ;;
        Ascend) variable=ASCEND_RT_VISIBLE_DEVICES ;;
        CPU) return ;;
    esac
    [[ -v $variable ]] || return 0
    value=${!variable}
    # CANN silently ignores the rest of the list from the first other character on, such as a space.
    [[ $1 == GPU || $value =~ ^([0-9]+(,[0-9]+)*)?$ ]] ||
        fail "$variable is '$value': give numbers and commas only, such as 0,1,2"
    IFS=, read -ra ids <<<"$value"
    for id in "${ids[@]}"; do
        [[ $id != -1 ]] || break  # which hides those after it
        visible=$((visible + 1))
    done
    ((count <= visible)) || fail "COUNT is $count, but $variable=$value shows $visible devices: lower COUNT or list more"
}

# Otherwise the other machines would wait until the time-out.
check_master() {
    local address
    [[ -n $master ]] || fail "--master is missing: give the host name of the machine with --node_rank 0"
    address=$(getent ahostsv4 "$master" | awk 'NR == 1 { print $1 }') || true
    [[ -n $address ]] || fail "--master $master has no address: give a host name that this machine can resolve"
    [[ $address != 127.* ]] || fail "--master $master resolves to $address, which no other machine can reach: \
give its network address, or correct /etc/hosts"
}

# Usage: run_ranks NAME PROGRAM ARGUMENT…; runs the Python program on all ranks and exits as the usage text says.
run_ranks() {
    local logs ranks=$((count * nodes)) code=0 asked="" notified="" rank="" failed=""
    logs=$PWD/logs/$1_$(date +%Y%m%d_%H%M%S)_$$
    ((nodes == 1)) || logs+=_node$node_rank  # machines that share the repository
    shift
    if ((nodes == 1)); then
        master=127.0.0.1  # and a free port, since jobs of one machine would share msrun's own
        port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    fi
    mkdir -p "$logs"
    touch "$logs"/{processes,codes}
    echo "== ${1%.py} on $ranks devices; logs of each rank in $logs"
    # msrun kills the ranks at Ctrl-C. In a session of its own it gets none; the ranks are signalled below, and save first.
    setsid msrun --worker_num="$ranks" --local_worker_num="$count" --node_rank="$node_rank" --master_addr="$master" \
        --master_port="$port" --cluster_time_out="$time_out" --log_dir="$logs" --join=True --tail_worker_log="$ranks" \
        scripts/rank.py "$logs" "$@" >"$logs/msrun.log" 2>&1 &
    local msrun=$!
    if ((node_rank == 0)); then
        tail --pid="$msrun" -s 0.5 -n +1 -F "$logs/worker_0.log" 2>/dev/null &
    fi
    trap 'on_signal INT' INT
    trap 'on_signal TERM' TERM

    while kill -0 "$msrun" 2>/dev/null; do
        if [[ -n $asked ]]; then
            for process in $(processes worker); do
                [[ $notified == *" $process "* ]] || kill -"$asked" "$process" 2>/dev/null || true
                notified+=" $process "
            done
        fi
        # After a failure msrun kills the other ranks, but would wait until the scheduler misses them.
        [[ -z $(failure) ]] || kill -KILL "$(processes scheduler)" 2>/dev/null || true
        sleep 0.5 &
        wait $! || true
    done
    wait "$msrun" || code=$?
    wait

    read -r rank failed < <(failure) || true
    if [[ -n $failed ]]; then
        echo "error: $rank ended with exit code $failed; the end of $logs/$rank.log:" >&2
        tail -n 20 "$logs/$rank.log" >&2
        exit "$failed"
    fi
    failed=$(awk '$2 != 0 { print $2; exit }' "$logs/codes")  # of a rank that was stopped
    [[ -z $failed ]] || exit "$failed"
    [[ -z $asked ]] || exit $((128 + $(kill -l "$asked")))
    if (($(wc -l <"$logs/codes") < count)); then
        for process in $(processes worker); do
            kill -KILL -- "-$process" 2>/dev/null || true
        done
        echo "error: msrun ended with exit code $code before all ranks did; the end of $logs/msrun.log:" >&2
        tail -n 20 "$logs/msrun.log" >&2
        exit $((code ? code : 1))
    fi
}

# The functions below read the variables of run_ranks.

on_signal() {
    # msrun kills the ranks at Ctrl-C.
    [[ -z $asked ]] || kill -INT "$msrun" 2>/dev/null || true
    asked=${asked:-$1}
}

# Prints the processes that scripts/rank.py has noted whose names begin with $1.
processes() {
    awk -v name="$1" 'index($1, name) == 1 { print $2 }' "$logs/processes"
}

# Prints name and code of the first rank that neither ended well nor was stopped.
failure() {
    awk '$2 != 0 && $2 != 130 && $2 != 143 { print; exit }' "$logs/codes"
}
