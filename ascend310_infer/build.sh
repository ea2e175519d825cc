#!/usr/bin/env bash
# Builds the programs in this directory.
set -euo pipefail

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    cat <<'END'
Usage: MS_LITE_HOME=DIR [OpenCV_ROOT=DIR] bash ascend310_infer/build.sh [CMAKE_ARGUMENT …]

  MS_LITE_HOME  MindSpore Lite: its unpacked tar.gz, or the package mindspore_lite of its wheel
  OpenCV_ROOT   OpenCV, if it is not installed in the system (Debian, Ubuntu: libopencv-dev)
  BUILD_DIR     build directory; default ascend310_infer/build

For example BUILD_DIR=/tmp/checked … -DSANITIZE=ON builds with the sanitizers.
END
    exit 0
fi
sources=$(dirname "${BASH_SOURCE[0]}")
build=${BUILD_DIR:-$sources/build}
if [[ -z ${MS_LITE_HOME:-} ]]; then
    echo "error: MS_LITE_HOME is not set: set it to the directory of MindSpore Lite (--help)" >&2
    exit 2
fi
if [[ -n ${OpenCV_ROOT:-} ]]; then
    # Libraries that OpenCV needs may be beside it.
    libraries=$(find "$OpenCV_ROOT" -name '*.so*' -printf '%h\n' | sort -u | tr '\n' ':')
    export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:-}
fi
cmake -S "$sources" -B "$build" -DMS_LITE_HOME="$MS_LITE_HOME" -DOpenCV_ROOT="${OpenCV_ROOT:-}" "$@"
cmake --build "$build" --parallel
