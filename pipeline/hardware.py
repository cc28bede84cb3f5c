"""What the machine has, asked without importing torch."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess


@functools.cache
def visible_gpus() -> int:
    """NVIDIA GPUs this process may use: those nvidia-smi lists, limited by CUDA_VISIBLE_DEVICES; 0 without a driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return 0
    if shutil.which("nvidia-smi") is None:
        return 0
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    gpus = sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0
    return min(gpus, len(visible.split(","))) if visible is not None else gpus
