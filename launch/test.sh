#!/usr/bin/env bash
# Install what the tests need and run those of every change; words after it go to pytest. Says how long they took.
#   ./launch/test.sh [tests/unit] [-k NAME] [-m 'not slow'] …     those of the nightly tier: -m nightly, all: -m ''
set -euo pipefail
unset CDPATH # with it `cd` may go elsewhere, and prints where
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case ${1:-} in -h | --help) sed -n '2,/^set -e/{/^set/d;s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"; exit 0 ;; esac

./launch/install.sh --dev --vllm
# What is imported is compiled once, and not in each of the processes that the tests start.
unset PYTHONDONTWRITEBYTECODE
export TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
SECONDS=0
# One process per core takes file after file, training with one thread; `-n 0` runs them all in one. nproc heeds OMP_NUM_THREADS.
# tests/conftest.py puts the long files first; xdist would begin with those of most tests, which are quick.
status=0
.venv/bin/python -m pytest -n "$(env -u OMP_NUM_THREADS nproc)" --dist loadfile --no-loadscope-reorder "$@" || status=$?
echo "test.sh: $((SECONDS / 60)) min $((SECONDS % 60)) s"
exit $status
