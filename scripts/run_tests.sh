#!/usr/bin/env bash
# Runs the linters and the test suite, making the environment first where it is missing.
set -euo pipefail

usage() {
    cat <<'END'
Usage: bash scripts/run_tests.sh [PYTEST_ARGUMENT …]

Makes .venv with requirements-dev.txt if needed, then runs ruff, shellcheck and pytest.
Arguments go to pytest, for instance: tests/test_metric.py -x
END
}

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    usage
    exit 0
fi

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment requirements-dev.txt

echo "== ruff"
ruff check
echo "== shellcheck"
shellcheck scripts/*.sh .ci/run
echo "== pytest"
python -m pytest -n 2 --dist loadfile "$@"
