#!/usr/bin/env bash
# Makes the environments of MindSpore Lite 2.0 and names what is missing.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

usage() {
    cat <<'END'
Usage: bash scripts/set_up_lite.sh [--no-install] [export | lite | cpp | tools …]

By default all of these:
  export  .lite/export: Python 3.9 with MindSpore 2.0.0, whose MindIR Lite 2.0.0 reads
  lite    .lite/python: Python 3.7 with MindSpore Lite 2.0.0, for deploy/lite_predict.py
  cpp     .lite/cpp: the same wheel unpacked, the MS_LITE_HOME of ascend310_infer/; needs no Python 3.7
  tools   g++, CMake and OpenCV (libopencv-dev) for ascend310_infer/, installed where root and apt-get can

PYTHON39 and PYTHON37 name the interpreters if they are not in PATH or pyenv. What exists is kept. Missing parts are
named, one per line; --no-install installs nothing. The exit code is 0 if all parts are there and 3 if one is missing.
END
}

handle_help "$@"
(($#)) || set -- export lite cpp tools
cd "$(dirname "${BASH_SOURCE[0]}")/.."
missing=0

# Usage: interpreter VERSION NAMED; prints the path of a Python of this version, first of all NAMED, or nothing.
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

# Usage: report PART REASON CONSEQUENCE
report() {
    echo "$1: MISSING, $2: $3"
    missing=3
}

# Usage: environment PART DIRECTORY PYTHON REQUIREMENTS CONSEQUENCE_IF_MISSING
environment() {
    local stamp
    stamp=.lite/$2/installed-$(sha256sum "$4" | cut -c1-12)
    if [[ -f $stamp ]]; then
        echo "$1: .lite/$2 is there"
    elif [[ ${COUPALIGN_NO_INSTALL:-} == 1 ]]; then
        report "$1" "not installed" "$5"
    elif [[ -z $3 ]]; then
        report "$1" "no interpreter" "$5"
    elif "$3" -m venv --clear ".lite/$2" && ".lite/$2/bin/python" -m pip install --quiet --disable-pip-version-check \
        --only-binary=:all: -r "$4"; then
        touch "$stamp"
        echo "$1: .lite/$2 made with $("$3" --version)"
    else
        report "$1" "its packages could not be installed" "$5"
    fi
}

unpacked() {
    local wheel platform
    if [[ -d .lite/cpp/mindspore_lite/include ]]; then
        echo "cpp: .lite/cpp is there"
        return
    fi
    if [[ ${COUPALIGN_NO_INSTALL:-} == 1 ]]; then
        report cpp "not installed" "the C++ program is not built"
        return
    fi
    # The wheel for aarch64 has the tag "any", and pip prefers the one for x86-64 where that fits.
    platform=manylinux1_x86_64
    [[ $(uname -m) == x86_64 ]] || platform=manylinux2014_$(uname -m)
    rm -rf .lite/cpp && mkdir -p .lite/cpp
    if python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 37 \
        --implementation cp --platform "$platform" --dest .lite/cpp mindspore-lite==2.0.0; then
        wheel=$(echo .lite/cpp/*.whl)
        python3 -m zipfile -e "$wheel" .lite/cpp
        rm "$wheel"
        echo "cpp: MS_LITE_HOME is $PWD/.lite/cpp/mindspore_lite"
    else
        report cpp "the wheel could not be fetched" "the C++ program is not built"
    fi
}

tools() {
    local lacking=()
    command -v g++ > /dev/null || lacking+=(g++)
    command -v cmake > /dev/null || lacking+=(cmake)
    [[ -f ${OpenCV_ROOT:-}/usr/include/opencv4/opencv2/imgcodecs.hpp ]] || lacking+=(libopencv-dev)
    if ((! ${#lacking[@]})); then
        echo "tools: g++, cmake and libopencv-dev are there"
    elif [[ ${COUPALIGN_NO_INSTALL:-} != 1 ]] && ((EUID == 0)) && command -v apt-get > /dev/null && { apt-get -qq update || true; } &&
        DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "${lacking[@]}" > /dev/null; then
        echo "tools: installed ${lacking[*]}"
    else
        report tools "${lacking[*]}" "the C++ program is neither built nor tested"
    fi
}

for part in "$@"; do
    case $part in
        export)
            environment export export "$(interpreter 3.9 "${PYTHON39:-}")" deploy/requirements-export.txt \
                "no MindIR for Lite 2.0 can be exported"
            # Makes `import coupalign` work without the package's dependencies.
            [[ ! -d .lite/export ]] || echo "$PWD/src" >.lite/export/lib/python3.9/site-packages/coupalign.pth
            ;;
        lite) environment lite python "$(interpreter 3.7 "${PYTHON37:-}")" deploy/requirements-lite.txt \
            "deploy/lite_predict.py cannot run" ;;
        cpp) unpacked ;;
        tools) tools ;;
        *) echo "error: unexpected argument $part" >&2; usage >&2; exit 2 ;;
    esac
done
exit "$missing"
