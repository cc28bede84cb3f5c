#!/usr/bin/env bash
# Submit a CoT build to SLURM: an array of shards, one node each, and the job that merges them when all are complete.
#   ./launch/slurm/cot_submit.sh --shards N --config FILE [--dry-run] [a.b=c …] [-- sbatch options of the array]
#     e.g. ./launch/slurm/cot_submit.sh --shards 16 --config emoset/qwen3_vl_2b -- --gpus-per-node=8 --time=04:00:00
#     --shards N     parts to split the rows in; the same N every time, for the shards' names hold it
#     --dry-run      check the config and show both commands, submit nothing
# SBATCH_PARTITION and SBATCH_ACCOUNT hold for both jobs. Logs: runs/slurm/. When a shard fails, the merge is cancelled;
# the same command again goes on where every shard stopped.
set -euo pipefail
unset CDPATH # with it `cd` may go elsewhere, and prints where
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

config=
shards=
dry_run=
words=()
while [ $# -gt 0 ]; do
  case $1 in
    --config) config=${2:?"--config needs a file"}; shift 2 ;;
    --config=*) config=${1#*=}; shift ;;
    --shards) shards=${2:?"--shards needs a number"}; shift 2 ;;
    --shards=*) shards=${1#*=}; shift ;;
    --dry-run) dry_run=1; shift ;;
    -h | --help) sed -n '2,/^set -e/{/^set/d;s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"; exit 0 ;;
    --) shift; break ;;
    *) words+=("$1"); shift ;;
  esac
done
if [[ ! $config || ! $shards =~ ^[1-9][0-9]*$ ]]; then
  echo "error: give --shards N and --config FILE; -h shows how to call this" >&2
  exit 2
fi

[ ! -f "$config" ] || config=$(cd "$(dirname "$config")" && pwd)/$(basename "$config")
cd "$root"
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
# A mistake is told here and now, not by every task tomorrow.
"$python" -m cot_builder build --config "$config" --dry-run "${words[@]}"

array=(sbatch --parsable "--array=0-$((shards - 1))" "--output=runs/slurm/%x-%A_%a.log" "$@"
  launch/slurm/cot_array.sbatch --config "$config" "${words[@]}")
merge=(--kill-on-invalid-dep=yes "--output=runs/slurm/%x-%j.log"
  launch/slurm/cot_merge.sbatch --config "$config" --shards "$shards" "${words[@]}")
if [ -n "$dry_run" ]; then
  printf '%q ' "${array[@]}"; echo
  printf '%q ' sbatch --parsable --dependency=afterok:ARRAY "${merge[@]}"; echo
  exit 0
fi
mkdir -p runs/slurm
job=$("${array[@]}")
job=${job%%;*} # with the cluster's name after it where there are several
merging=$(sbatch --parsable "--dependency=afterok:$job" "${merge[@]}")
echo "array $job of $shards shards, then merge ${merging%%;*}; logs in runs/slurm/, squeue --me shows where they stand"
