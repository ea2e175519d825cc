# shellcheck shell=bash
# Sourced by the other scripts, without arguments: takes --no-install out of the caller's arguments, changes to the
# repository's root when the environment is prepared, and holds what the scripts share.

remaining=()
for argument in "$@"; do
    if [[ $argument == --no-install ]]; then export COUPALIGN_NO_INSTALL=1; else remaining+=("$argument"); fi
done
set -- "${remaining[@]}"
unset remaining argument

fail() {
    echo "error: $1" >&2
    exit 2
}

# Usage: handle_help "$@"; shows the caller's `usage` if the first argument asks for it.
handle_help() {
    if [[ ${1:-} == -h || ${1:-} == --help ]]; then
        usage
        exit 0
    fi
}

# Usage: need_arguments NAMES COUNT "$@"; the first COUNT arguments must be values, not options.
need_arguments() {
    local names=$1 count=$2 argument
    shift 2
    for argument in "${@:1:count}"; do
        [[ $argument != -* ]] || set --
    done
    if (($# < count)); then
        echo "error: $names are needed" >&2
        usage >&2
        exit 2
    fi
}

need_device() {
    [[ $1 == CPU || $1 == GPU || $1 == Ascend ]] || fail "DEVICE is $1: choose CPU, GPU or Ascend"
}

# Usage: need_file WHAT PATH [REMEDY]
need_file() {
    [[ -f $2 ]] || fail "no $1 $2${3:+: $3}"
}

need_data() {
    [[ -d $1 ]] || fail "no directory $1: make it with prepare_data.py"
}

# Usage: prepare_environment REQUIREMENTS_FILE
# Puts a Python environment first in PATH: that of COUPALIGN_PYTHON, else the active virtual or conda environment, else
# .venv of the repository, which is made. Missing requirements are installed, unless COUPALIGN_NO_INSTALL is 1.
prepare_environment() {
    local requirements=$1 python="" missing
    if [[ -n ${COUPALIGN_PYTHON:-} ]]; then
        python=$(command -v "$COUPALIGN_PYTHON") || fail "COUPALIGN_PYTHON is $COUPALIGN_PYTHON: no such program"
        python=$(realpath -s "$python")
    elif [[ -n ${VIRTUAL_ENV:-${CONDA_PREFIX:-}} ]]; then
        python=${VIRTUAL_ENV:-$CONDA_PREFIX}/bin/python
    fi
    cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
    # The environment may hold the coupalign of another checkout.
    export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH}
    python=${python:-$PWD/.venv/bin/python}
    if [[ $python != "$PWD/.venv/bin/python" ]]; then
        # msrun and the scripts call `python`.
        [[ -x $(dirname "$python")/python ]] ||
            fail "$(dirname "$python")/python is missing: activate an environment, or name its bin/python in COUPALIGN_PYTHON"
        is_supported "$python" ||
            fail "$python is $("$python" --version 2>&1): an environment with Python 3.11 or 3.12 is needed"
    fi
    PATH=$(dirname "$python"):$PATH
    # Usually nothing is missing: no lock and no network are needed.
    if missing=$("$python" scripts/missing.py "$requirements" 2>/dev/null) && [[ -z $missing ]]; then
        return
    elif [[ ${COUPALIGN_NO_INSTALL:-} == 1 ]]; then
        [[ -x $python ]] || fail "no Python environment and --no-install: activate one, or name its Python in COUPALIGN_PYTHON"
        fail "not installed in $(dirname "$(dirname "$python")"), and --no-install: $missing"
    fi
    install_requirements "$python" "$requirements"
}

install_requirements() {
    local python=$1 requirements=$2 lock log attempt missing base
    # Several machines may share the checkout.
    exec {lock}>.environment.lock
    flock -n "$lock" || { echo "== Waiting for another installation"; flock "$lock"; }
    if ! is_supported "$python"; then  # .venv is absent, or was left unfinished
        base=$(find_python) || exit
        echo "== Making .venv with $("$base" --version)"
        "$base" -m venv --clear .venv
    elif ! "$python" -m pip --version &>/dev/null; then
        "$python" -m ensurepip &>/dev/null || fail "$python has no pip: install pip in that environment"
    fi
    log=$(mktemp)
    for attempt in 1 2 3; do
        missing=$("$python" scripts/missing.py "$requirements")
        [[ -n $missing ]] || break
        echo "== Installing $requirements in $(dirname "$(dirname "$python")") (3.5 GB for all of it)"
        # A broken download of gigabytes is started again; pip keeps the files it has.
        "$python" -m pip install --disable-pip-version-check --retries 0 -r "$requirements" 2>"$log" &&
            "$python" -m pip install --disable-pip-version-check --retries 0 --no-deps -e . 2>"$log" && break
        if grep -qE "from versions: none|NewConnectionError|name resolution|unreachable" "$log"; then
            rm "$log"
            fail "no network, or no packages for this system: install these in $(dirname "$(dirname "$python")") yourself: $missing"
        fi
        cat "$log" >&2
        ((attempt < 3)) || exit 1
        echo "== Installation failed, trying again ($attempt of 2)"
    done
    rm "$log"
    exec {lock}>&-
}

# Whether `$1` runs and is a Python that MindSpore 2.9 has packages for.
is_supported() {
    "$1" -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
}

# Prints the name of a supported Python, first of all the version that the project is tested with.
find_python() {
    local candidate
    for candidate in python3.11 python3.12 python3 python; do
        if is_supported "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or 3.12 with venv: install one, or name that of an environment in COUPALIGN_PYTHON"
}

# Usage: run_logged NAME PROGRAM ARGUMENT…; becomes the Python program, whose output is also kept in logs/.
run_logged() {
    local log
    log=logs/$1_$(date +%Y%m%d_%H%M%S)_$$.log
    shift
    mkdir -p logs
    echo "== ${1%.py}; also in $log"
    # exec keeps the process id: a signal to the script reaches the program, which saves before it ends. tee ignores
    # Ctrl-C, so that none of that output is lost.
    exec python "$@" > >(trap '' INT TERM; tee -a "$log") 2> >(trap '' INT TERM; tee -a "$log" >&2)
}
