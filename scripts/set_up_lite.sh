#!/usr/bin/env bash
# Makes the environments of MindSpore Lite 2.0, and says what cannot be had here.
set -euo pipefail

usage() {
    cat <<'END'
Usage: bash scripts/set_up_lite.sh [export | lite | cpp | tools …]

Without arguments all of them:
  export  .lite/export: Python 3.9 with MindSpore 2.0.0, whose MindIR Lite 2.0.0 reads
  lite    .lite/python: Python 3.7 with MindSpore Lite 2.0.0, for deploy/lite_predict.py
  cpp     .lite/cpp: the same wheel unpacked, the MS_LITE_HOME of ascend310_infer/; needs no Python 3.7
  tools   g++, CMake and OpenCV (libopencv-dev) for ascend310_infer/, installed where root and apt-get can

PYTHON39 and PYTHON37 name the interpreters where PATH and pyenv do not have them. What is there already is kept.
The exit code is 0 when all that was asked for is there, 3 when something is missing; each is said in a line.
END
}

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    usage
    exit 0
fi
(($#)) || set -- export lite cpp tools
cd "$(dirname "${BASH_SOURCE[0]}")/.."
missing=0

# Prints the path of a Python of version $1, or nothing; $2 is what the user named.
interpreter() {
    local candidate
    for candidate in "$2" "python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python; do
        if [[ -n $candidate ]] && "$candidate" -c \
            "import sys, venv, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

# Usage: environment NAME PYTHON REQUIREMENTS WHAT_IS_NOT_CHECKED_WITHOUT
environment() {
    local stamp
    stamp=.lite/$1/installed-$(sha256sum "$3" | cut -c1-12)
    if [[ -f $stamp ]]; then
        echo "$1: .lite/$1 is there"
    elif [[ -z $2 ]]; then
        echo "$1: MISSING, no interpreter: $4"
        missing=3
    elif "$2" -m venv --clear ".lite/$1" && ".lite/$1/bin/python" -m pip install --quiet --disable-pip-version-check \
        --only-binary=:all: -r "$3"; then
        touch "$stamp"
        echo "$1: .lite/$1 made with $("$2" --version)"
    else
        echo "$1: MISSING, its packages could not be installed: $4"
        missing=3
    fi
}

unpacked() {
    local wheel
    if [[ -d .lite/cpp/mindspore_lite/include ]]; then
        echo "cpp: .lite/cpp is there"
        return
    fi
    rm -rf .lite/cpp && mkdir -p .lite/cpp
    if python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 37 \
        --implementation cp --platform manylinux1_x86_64 --dest .lite/cpp mindspore-lite==2.0.0; then
        wheel=$(echo .lite/cpp/*.whl)
        python3 -m zipfile -e "$wheel" .lite/cpp
        rm "$wheel"
        echo "cpp: MS_LITE_HOME is $PWD/.lite/cpp/mindspore_lite"
    else
        echo "cpp: MISSING, the wheel could not be fetched: the C++ program is not built"
        missing=3
    fi
}

tools() {
    local lacking=()
    command -v g++ > /dev/null || lacking+=(g++)
    command -v cmake > /dev/null || lacking+=(cmake)
    [[ -f ${OpenCV_ROOT:-}/usr/include/opencv4/opencv2/imgcodecs.hpp ]] || lacking+=(libopencv-dev)
    if ((! ${#lacking[@]})); then
        echo "tools: g++, cmake and libopencv-dev are there"
    elif ((EUID == 0)) && command -v apt-get > /dev/null && { apt-get -qq update || true; } &&
        DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "${lacking[@]}" > /dev/null; then
        echo "tools: installed ${lacking[*]}"
    else
        echo "tools: MISSING, ${lacking[*]}: the C++ program is not built, what needs it is not checked"
        missing=3
    fi
}

for part in "$@"; do
    case $part in
        export) environment export "$(interpreter 3.9 "${PYTHON39:-}")" deploy/requirements-export.txt \
            "no MindIR for Lite 2.0 is made or compared" ;;
        lite) environment python "$(interpreter 3.7 "${PYTHON37:-}")" deploy/requirements-lite.txt \
            "deploy/lite_predict.py is not run" ;;
        cpp) unpacked ;;
        tools) tools ;;
        *) echo "error: unexpected argument $part" >&2; usage >&2; exit 2 ;;
    esac
done
exit "$missing"
