#!/usr/bin/env bash
# Serve a teacher on several machines over ssh, and print the word that points a build at them.
#   ./launch/serve_on_nodes.sh [--port N] [--root DIR] [--dry-run] HOST … -- TEACHER [vLLM flags …]
#     TEACHER      a file, or the bare name of one in configs/teachers/
#     --port N     where the servers listen (default: as the teacher's file says)
#     --root DIR   where this repository is on the hosts (default: where it is here)
#     --dry-run    show the commands, start nothing
# Needs ssh without a password and an installed repository on every host. Stays in the foreground; Ctrl-C stops the servers.
# They listen to the whole network; with VLLM_API_KEY set here they ask for that key: see docs/multi_node.md.
set -euo pipefail
unset CDPATH # with it `cd` may go elsewhere, and prints where
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
there=$root
port=()
dry_run=
hosts=()
while [ $# -gt 0 ]; do
  case $1 in
    --port) port=(--port "${2:?"--port needs a number"}"); shift 2 ;;
    --root) there=${2:?"--root needs a folder"}; shift 2 ;;
    --dry-run) dry_run=1; shift ;;
    -h | --help) sed -n '2,/^set -e/{/^set/d;s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"; exit 0 ;;
    --) shift; break ;;
    -*) echo "error: $1 is not an option of this; vLLM's stand after the teacher. -h shows how to call this" >&2; exit 2 ;;
    *) hosts+=("$1"); shift ;;
  esac
done
[ ${#hosts[@]} -gt 0 ] && [ $# -gt 0 ] || { echo "error: give HOST … -- TEACHER; -h shows how to call this" >&2; exit 2; }
teacher=$1
# A file beside the user; one of this repository is found in that of the hosts.
[ ! -f "$teacher" ] || teacher=$(cd "$(dirname "$teacher")" && pwd)/$(basename "$teacher")
teacher=${teacher#"$root/"}

cd "$root"
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
serve="cd $(printf %q "$there") && exec ./launch/serve_teacher.sh$(printf ' %q' "$teacher" "${port[@]}" --host 0.0.0.0 "${@:2}")"
# Who ssh logs in as (user@host) is no part of a server's address.
addresses=("$python" -m cot_builder.serving addresses "$teacher" "${hosts[@]##*@}" "${port[@]}")
if [ -n "$dry_run" ]; then
  for host in "${hosts[@]}"; do echo "ssh -tt $host $(printf %q "$serve")"; done
  exec "${addresses[@]}"
fi

logs=runs/servers
mkdir -p "$logs"
started=()
word=$(mktemp)
stop() {
  trap - EXIT
  rm -f "$word"
  kill "${started[@]}" 2>/dev/null || true
  wait
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
# ssh hands no variable on, and a key among its words would be in everybody's `ps`: it goes into a file there, of this user
# alone, which the server's shell reads and deletes.
with_key() {
  local file
  file=$(printf %s "$VLLM_API_KEY" | ssh -o BatchMode=yes "$1" "sh -c 'umask 077; f=\$(mktemp) && cat >\$f && echo \$f'") ||
    { echo "error: $1 did not take the key of VLLM_API_KEY; does 'ssh $1 true' work?" >&2; return 1; }
  printf 'exec sh -c %q' "VLLM_API_KEY=\$(cat $file); rm -f $file; export VLLM_API_KEY; $serve"
}
for host in "${hosts[@]}"; do
  command=$serve
  [ -z "${VLLM_API_KEY:-}" ] || command=$(with_key "$host")
  # With a terminal (-tt), the server there ends when the connection does.
  ssh -tt -o BatchMode=yes "$host" "$command" </dev/null >"$logs/$host.log" 2>&1 &
  started+=($!)
done
servers=("${started[@]}")
echo "logs: $logs/HOST.log" >&2
"${addresses[@]}" --wait >"$word" &
waiting=$!
started+=("$waiting")
code=0
wait -n "${started[@]}" || code=$?
if kill -0 "$waiting" 2>/dev/null; then
  echo "error: a server ended before all answered; the ends of the logs:" >&2
  for host in "${hosts[@]}"; do tail -n 15 "$logs/$host.log" | sed "s/^/$host: /" >&2; done
  exit 1
fi
[ "$code" -eq 0 ] || exit "$code"
cat "$word"
wait "${servers[@]}"
