#!/usr/bin/env bash
# Train everything a config describes: CoT data, SFT, the GRPO stages, evaluation, report. Installs first if need be.
#   ./launch/run_all_stages.sh [--config configs/demo.yaml] [--gpus N] [--dry-run] [--help] [a.b=c …]
#     --config FILE   the run to do (default: configs/demo.yaml, a small one for any machine)
#     --gpus N        processes to train with, one per GPU (short for launch.num_processes=N)
#     --dry-run       resolve, check and print what would run; installs nothing where .venv is there
#     a.b=c           any setting of the config; other options go to `python -m pipeline run`
# Works from any folder; --config is looked for there, other relative paths start at the repository.
# Run again, it skips what is complete and goes on where it stopped.
set -euo pipefail
unset CDPATH # with it `cd` may go elsewhere, and prints where
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

config=$root/configs/demo.yaml
words=() dry_run=''
while [ $# -gt 0 ]; do
  case $1 in
    --config) config=${2:?"--config needs a file"}; shift 2 ;;
    --config=*) config=${1#*=}; shift ;;
    --gpus) words+=("launch.num_processes=${2:?"--gpus needs a number"}"); shift 2 ;;
    --gpus=*) words+=("launch.num_processes=${1#*=}"); shift ;;
    --dry-run) dry_run=yes; words+=("$1"); shift ;;
    -h | --help) sed -n '2,/^set -e/{/^set/d;s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) words+=("$1"); shift ;;
  esac
done

[ ! -e "$config" ] || [ -d "$config" ] || config=$(cd "$(dirname "$config")" && pwd)/$(basename "$config")
cd "$root"
[ -n "$dry_run" ] && [ -e .venv/.installed-base ] || ./launch/install.sh
export TOKENIZERS_PARALLELISM=${TOKENIZERS_PARALLELISM:-false}
# One thread per process: on busy cores a second one makes training many times slower. GPU runs are not bound by it.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec .venv/bin/python -m pipeline run --config "$config" "${words[@]}"
