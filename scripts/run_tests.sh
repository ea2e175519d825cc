#!/usr/bin/env bash
# Runs the checks of style and types, and the tests.
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

usage() {
    cat <<'END'
Usage: bash scripts/run_tests.sh [--no-install] [PYTEST_ARGUMENT …]

Runs ruff, shellcheck, mypy, MkDocs (links of the documents) and pytest with the packages of requirements-dev.txt.
Arguments go to pytest, for instance: -m "not slow", or tests/test_metric.py -x
END
}

handle_help "$@"
prepare_environment requirements-dev.txt

echo "== ruff"
ruff check
ruff format --check
echo "== shellcheck"
shellcheck -x scripts/*.sh .ci/run
echo "== mypy"
mypy
echo "== mkdocs"
mkdocs build --strict --quiet
echo "== pytest"
# Two processes. A test file stays in one of them, since its tests share compiled graphs. tests/conftest.py puts the slow
# files first, which pytest-xdist would order by their number of tests.
python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
