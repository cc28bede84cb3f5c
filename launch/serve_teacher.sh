#!/usr/bin/env bash
# Serve a teacher with vLLM on this machine, on its GPUs or its CPU: launch/serve_teacher.sh <teacher.yaml> [vLLM flags …]
# Runs in the foreground until it is stopped. --dry-run shows the command instead. It takes the first visible GPU, so a second
# teacher is given another: CUDA_VISIBLE_DEVICES=1 launch/serve_teacher.sh <other.yaml>
set -euo pipefail
unset CDPATH # with it `cd` may go elsewhere, and prints where
[ ! -f "${1:-}" ] || set -- "$(cd "$(dirname "$1")" && pwd)/$(basename "$1")" "${@:2}"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ -z "${PYTHON:-}" ]]; then
  PYTHON=python3
  if [[ -x .venv/bin/python ]]; then PYTHON=.venv/bin/python; fi
fi
exec "$PYTHON" -m cot_builder.serve "$@"
