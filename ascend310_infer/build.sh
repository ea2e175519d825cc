#!/usr/bin/env bash
# Builds the programs of this directory in ascend310_infer/build.
set -euo pipefail

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    cat <<'END'
Usage: MS_LITE_HOME=DIR [OpenCV_ROOT=DIR] bash ascend310_infer/build.sh [CMAKE_ARGUMENT …]

  MS_LITE_HOME  MindSpore Lite: its unpacked tar.gz, or the package mindspore_lite of its wheel
  OpenCV_ROOT   OpenCV, where it is not installed in the system (Debian, Ubuntu: libopencv-dev)

For instance -DSANITIZE=ON, for a build that checks itself.
END
    exit 0
fi
cd "$(dirname "${BASH_SOURCE[0]}")"
if [[ -z ${MS_LITE_HOME:-} ]]; then
    echo "error: MS_LITE_HOME is not set: let it name the directory of MindSpore Lite (--help)" >&2
    exit 2
fi
if [[ -n ${OpenCV_ROOT:-} ]]; then
    # What OpenCV itself needs may lie beside it.
    libraries=$(find "$OpenCV_ROOT" -name '*.so*' -printf '%h\n' | sort -u | tr '\n' ':')
    export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:-}
fi
cmake -S . -B build -DMS_LITE_HOME="$MS_LITE_HOME" -DOpenCV_ROOT="${OpenCV_ROOT:-}" "$@"
cmake --build build --parallel
