# shellcheck shell=bash
# Sourced by the other scripts: makes .venv in the repository and installs a requirements file, once.
# It leaves the working directory at the repository's root and the environment activated.

# Usage: prepare_environment REQUIREMENTS_FILE
prepare_environment() {
    local requirements=$1 python stamp attempt
    cd "$(dirname "${BASH_SOURCE[0]}")/.." || return
    if [[ ! -x .venv/bin/python ]]; then
        python=$(find_python)
        echo "== Making .venv with $("$python" --version)"
        "$python" -m venv .venv
    fi
    # shellcheck disable=SC1091
    source .venv/bin/activate
    stamp=.venv/installed-$(cat requirements*.txt | sha256sum | cut -c1-12)-$requirements
    if [[ ! -f $stamp ]]; then
        echo "== Installing $requirements (about 3.5 GB and some minutes the first time)"
        # A download of gigabytes that breaks off is begun again; pip keeps what it has fetched whole.
        for attempt in 1 2 3; do
            python -m pip install --disable-pip-version-check -r "$requirements" &&
                python -m pip install --disable-pip-version-check --no-deps -e . && break
            ((attempt < 3)) || return
            echo "== Installation failed, trying again ($attempt of 2)"
        done
        touch "$stamp"
    fi
}

# Prints the name of a Python that MindSpore 2.9 has packages for, first of all the one the project was tested with.
find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3.11 python3.12 python3.10 python3 python; do
        if "$candidate" -c 'import sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python 3.10, 3.11 or 3.12 with venv found: install one, or name it in PYTHON" >&2
    return 1
}
