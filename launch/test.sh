#!/usr/bin/env bash
# Install what the tests need and run them all; words after it go to pytest.
#   ./launch/test.sh [tests/unit] [-k NAME] [-m 'not slow'] …
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case ${1:-} in -h | --help) sed -n '2,/^set -e/{/^set/d;s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"; exit 0 ;; esac

./launch/install.sh --dev --vllm
export TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# One process per core takes file after file, training with one thread; `-n 0` runs them all in one.
exec .venv/bin/python -m pytest -n "$(env -u OMP_NUM_THREADS nproc)" --dist loadfile "$@"  # nproc heeds that variable.
