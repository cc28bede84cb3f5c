#!/usr/bin/env bash
# Run this first on a machine with GPUs: it tells in some ten minutes on one card whether all that a run needs works there.
#   ./launch/check_gpu.sh [--cpu] [--only driver,triton,run,zero2,rollouts,ddp,several,step] [--out check_gpu.json]
#     --cpu    the same on the CPU, with the smallest sizes (taken by itself where there is no GPU)
#     --only   some of the checks
#     --out    where the figures are written; the file can be sent to the maintainers, and holds no path and no secret
# Needs no network, no weights and no data once ./launch/install.sh is done. Exit status 1 when a check failed.
set -euo pipefail
unset CDPATH # with it `cd` may go elsewhere, and prints where
case ${1:-} in -h | --help) sed -n '2,/^set -e/{/^set/d;s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"; exit 0 ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || command -v "$python" > /dev/null || ./launch/install.sh
export TOKENIZERS_PARALLELISM=${TOKENIZERS_PARALLELISM:-false} OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$python" -m benchmarks.gpu_check "$@"
