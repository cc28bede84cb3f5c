"""GPUs that are not there: an `nvidia-smi` on the PATH that lists them, and a torch that believes it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.system import hardware

NVIDIA_SMI = """#!/bin/sh
each() { i=0; while [ $i -lt {count} ]; do echo "$1"; i=$((i + 1)); done; }
case "$*" in
  -L) i=0; while [ $i -lt {count} ]; do echo "GPU $i: {name} (UUID: GPU-$i)"; i=$((i + 1)); done ;;
  *memory.free*) i=0; while [ $i -lt {count} ]; do echo "$i, GPU-$i, {free}"; i=$((i + 1)); done ;;
  *memory.total*) i=0; while [ $i -lt {count} ]; do echo "$i, GPU-$i, {total}"; i=$((i + 1)); done ;;
  *driver_version*) each {driver} ;;
  *) exit 9 ;;
esac
"""


def put_on_path(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    count: int,
    *,
    name: str = "NVIDIA H100 80GB HBM3",
    driver: str = "580.65.06",
    free: int | str = 80000,
    total: int = 81559,
    visible: str | None = None,
) -> None:
    """Simulate the driver's GPUs, for this process and its children.

    Args:
        folder: where the stand-in is written; an empty one.
        count: GPUs it lists.
        free: MiB free on each; words of a shell may ask for its number, $i.
        total: MiB of each.
        visible: CUDA_VISIBLE_DEVICES; None leaves it unset.
    """
    words = {"count": count, "name": name, "driver": driver, "free": free, "total": total}
    script = NVIDIA_SMI
    for key, value in words.items():
        script = script.replace(f"{{{key}}}", str(value))
    (folder / "nvidia-smi").write_text(script)
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    hardware.visible_gpus.cache_clear()


def believe(monkeypatch: pytest.MonkeyPatch, count: int, *, bfloat16: bool = True) -> None:
    """Let torch say that it can use `count` GPUs, which compute bfloat16 or only emulate it. Nothing can run on them."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: count > 0 and (bfloat16 or including_emulation),
    )
