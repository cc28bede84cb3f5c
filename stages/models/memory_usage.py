"""What a training worker used: the peak memory of every process, and what its folder holds on disk."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from pipeline.files import folder_bytes
from pipeline.system.hardware import machine_memory


def start_peak() -> None:
    """Count peak memory from here on, for a process that trains several stages."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        # Only Linux has it; elsewhere the peak is that of the whole process.
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Return peak bytes of this process: what torch allocated on its GPU, or without one the resident set."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return psutil.Process().memory_info().rss


def device_memory() -> int:
    """Return bytes of memory the device of this process has in all; on a CPU those that its container or batch job has."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return machine_memory()


def process_age() -> float:
    """Return seconds since this process was started, its imports included."""
    return time.time() - psutil.Process().create_time()


def count_parameters(model: Any) -> tuple[int, int]:
    """Return how many parameters a model has, and how many of them train; whole ones where ZeRO-3 holds a part here."""
    counts = [(getattr(one, "ds_numel", one.numel()), one.requires_grad) for one in model.parameters()]
    return sum(count for count, _ in counts), sum(count for count, trained in counts if trained)


def usage(trainer: Any, folder: Path) -> dict[str, Any]:
    """Return what a stage used, for its record. Called on all ranks, before the record is written.

    Returns:
        ``device`` cuda or cpu, ``peak_memory_bytes`` per rank, ``device_memory_bytes``, ``checkpoint_bytes`` of the newest
        checkpoint (0 without one), ``parameters`` and ``trained_parameters``, adapters among them.
    """
    from accelerate.utils import gather_object

    peaks = gather_object([peak_memory()])
    parameters, trained = count_parameters(trainer.model)
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: path.stat().st_mtime)
    return {
        "device": trainer.accelerator.device.type,
        "peak_memory_bytes": peaks,
        "device_memory_bytes": device_memory(),
        "checkpoint_bytes": folder_bytes(checkpoints[-1]) if checkpoints else 0,
        "parameters": parameters,
        "trained_parameters": trained,
    }
