#!/usr/bin/env bash
# Train everything a config describes on several nodes: the same command on each of them, with its own --node.
#   ./launch/train_on_nodes.sh --nodes N --node K --master HOST [--config FILE] [--dry-run] [a.b=c …]
#     --nodes N       how many there are
#     --node K        which one this is, from 0; node 0 conducts and prints, the others follow
#     --master HOST   node 0's name or address, as the others reach it; every launch takes a free port of it
#     a.b=c           any setting of the config; other options go to `python -m pipeline run`
# All nodes share the repository and the folder of the runs, and are installed (./launch/install.sh). launch.num_processes
# counts the processes of one node (default: its GPUs). When a node is lost all stop; the same on every node goes on.
# Under SLURM take launch/slurm/train.sbatch.
set -euo pipefail
unset CDPATH # with it `cd` may go elsewhere, and prints where
nodes=
node=
master=
config=
words=()
while [ $# -gt 0 ]; do
  case $1 in
    --nodes) nodes=${2:?"--nodes needs a number"}; shift 2 ;;
    --node) node=${2:?"--node needs a number"}; shift 2 ;;
    --master) master=${2:?"--master needs a name or an address"}; shift 2 ;;
    --config) config=${2:?"--config needs a file"}; shift 2 ;;
    --config=*) config=${1#*=}; shift ;;
    --port) shift 2 ;; # Of runs begun when nodes met on a port.
    -h | --help) sed -n '2,/^set -e/{/^set/d;s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) words+=("$1"); shift ;;
  esac
done
[ -n "$nodes" ] && [ -n "$node" ] && [ -n "$master" ] ||
  { echo "error: give --nodes, --node and --master; -h shows how to call this" >&2; exit 2; }

[ ! -f "$config" ] || config=$(cd "$(dirname "$config")" && pwd)/$(basename "$config")
[ -z "$config" ] || words=(--config "$config" "${words[@]}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export NNODES=$nodes NODE_RANK=$node MASTER_ADDR=$master
export TOKENIZERS_PARALLELISM=${TOKENIZERS_PARALLELISM:-false} OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$python" -m pipeline run "${words[@]}"
