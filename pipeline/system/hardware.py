"""What the machine has, asked without importing torch."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

CGROUP = Path("/sys/fs/cgroup")
"""Where the kernel shows its control groups, in which containers and batch jobs have their limits."""
LISTED = Path("/proc/self/cgroup")
"""Which of them this process is in."""


@functools.cache
def visible_gpus() -> int:
    """Return NVIDIA GPUs this process may use: those nvidia-smi lists, limited by CUDA_VISIBLE_DEVICES; 0 without a driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not _named(visible):
        return 0
    if shutil.which("nvidia-smi") is None:
        return 0
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    gpus = sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0
    return min(gpus, len(_named(visible, gpus))) if visible is not None else gpus


def _named(visible: str, gpus: int | None = None) -> list[str]:
    """Return the GPUs that a CUDA_VISIBLE_DEVICES names, as CUDA reads it: up to the first word that names none.

    SLURM says NoDevFiles where a job has none, and a comma may end the list.

    Args:
        visible: its value.
        gpus: of the machine, where it is known; a number from there on names none.
    """
    words = [word.strip() for word in visible.split(",")]
    kind = next((prefix for prefix in ("GPU-", "MIG-") if words[0].startswith(prefix)), None)
    found: list[str] = []
    for word in words:
        number = re.match(r"\+?(\d+)", word)
        if kind and word.startswith(kind):
            name = word
        elif number and not kind and (gpus is None or int(number[1]) < gpus):
            name = str(int(number[1]))
        else:
            break
        if name in found:
            # CUDA then has none at all.
            return []
        found.append(name)
    return found


def driver_version() -> str:
    """Return the version of the NVIDIA driver, as nvidia-smi says it."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        listed = []
    return listed[0] if listed else "of an unknown version"


def compiler_problems() -> Iterator[str]:
    """Yield what a GPU's training lacks on this machine: Triton compiles with a C compiler and Python.h at the first step."""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        yield "training on a GPU needs a C compiler, for Triton's kernels: apt install gcc g++, or name one in CC"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        yield (
            f"training on a GPU needs Python.h, for Triton's kernels, and {sysconfig.get_path('include')} has none: "
            "apt install python3-dev"
        )


def free_memory(names: Sequence[str] = ()) -> list[int]:
    """Return free bytes of these GPUs, of every visible one where none is named, or of this machine's memory where there is none.

    A GPU that nvidia-smi does not list by the name it has in CUDA_VISIBLE_DEVICES, a number or the begin of a UUID, is left out:
    a slice of one (MIG) is.
    """
    if visible_gpus():
        return _asked_of_gpus("memory.free", names)
    import psutil

    return [min([int(psutil.virtual_memory().available), *(free for _, free in _group_memory())])]


def machine_memory() -> int:
    """Return the bytes of this machine's memory, or of what a container or a batch job has of it."""
    import psutil

    return min([int(psutil.virtual_memory().total), *(limit for limit, _ in _group_memory())])


def gpu_memory(names: Sequence[str] = ()) -> list[int]:
    """Return the bytes of these GPUs, taken ones too, named and left out as `free_memory` says; none where there are none."""
    return _asked_of_gpus("memory.total", names) if visible_gpus() else []


def _asked_of_gpus(what: str, names: Sequence[str]) -> list[int]:
    query = ["nvidia-smi", f"--query-gpu=index,uuid,{what}", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()
        found = [(number, uuid, int(mib) << 20) for number, uuid, mib in (line.split(", ") for line in listed)]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
    return [
        bytes_
        for name in names or gpu_names()
        for number, uuid, bytes_ in found
        if name == number or (name.startswith("GPU-") and uuid.startswith(name))
    ]


def usable_cores(cgroup: Path = CGROUP) -> int:
    """Return the CPU cores this process may use: of its affinity, or fewer where its container has less time than that."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _own_groups("cpu", cgroup):
        for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
            # Missing, or "max": no limit; so is -1.
            with contextlib.suppress(OSError, ValueError):
                quota, period = (int(word) for name in files for word in (folder / name).read_text().split())
                cores = min(cores, max(1, quota // period)) if quota > 0 else cores
    return cores


def _group_memory(cgroup: Path = CGROUP) -> list[tuple[int, int]]:
    """Return (limit, free bytes) of each group this process is in that has a limit, such as a container or a job of SLURM;
    psutil knows none of them.
    """
    found = []
    for folder in _own_groups("memory", cgroup):
        for limit, used, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            # Missing, or "max": no limit.
            with contextlib.suppress(OSError, ValueError, KeyError):
                most, taken = (int((folder / name).read_text()) for name in (limit, used))
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                # Cached files count as used, and go when the memory is asked for.
                found.append((most, max(0, most - taken + int(stat[cache]))))
    return found


def _own_groups(controller: str, cgroup: Path) -> Iterator[Path]:
    """Yield the folders that may limit this process, its own and those above, of both versions of control groups.

    A container mostly sees its own group as the root; a job of SLURM, or of systemd, is in one further down.
    """
    try:
        lines = LISTED.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines or ["0::/"]:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = cgroup / controller if controllers else cgroup
        own = PurePosixPath(path.lstrip("/"))
        yield from (root / part for part in (own, *own.parents))


def gpu_names() -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES calls each visible GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return _named(visible)[: visible_gpus()]
    return [str(number) for number in range(visible_gpus())]
