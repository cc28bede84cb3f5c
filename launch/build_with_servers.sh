#!/usr/bin/env bash
# Build CoT rows on one machine together with the vLLM servers of the run's teachers, on its GPUs or its CPU.
#   ./launch/build_with_servers.sh --config FILE [--base-port N] [--dry-run] [a.b=c … and other words of the build]
#     --config FILE    the run, a file or the bare name of one in configs/
#     --base-port N    number the servers' ports from N, whatever the teachers' files say
#     --dry-run        show the servers and the build's plan, start nothing
# Starts a server for every address of this machine that a teacher names, waits until all answer, builds, and stops them
# whatever happens; the exit code is the build's. Run again, it goes on where it stopped. Logs: servers/ in the run's folder.
set -euo pipefail
unset CDPATH # with it `cd` may go elsewhere, and prints where
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

config=
words=()
while [ $# -gt 0 ]; do
  case $1 in
    --config) config=${2:?"--config needs a file"}; shift 2 ;;
    --config=*) config=${1#*=}; shift ;;
    -h | --help) sed -n '2,/^set -e/{/^set/d;s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) words+=("$1"); shift ;;
  esac
done
[ -n "$config" ] || { echo "error: --config FILE is missing; -h shows how to call this" >&2; exit 2; }

[ ! -f "$config" ] || config=$(cd "$(dirname "$config")" && pwd)/$(basename "$config")
cd "$root"
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
exec "$python" -m cot_builder.serving build --config "$config" "${words[@]}"
