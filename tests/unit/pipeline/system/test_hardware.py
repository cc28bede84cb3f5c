"""What a machine has to give, as a container on it sees it."""

from __future__ import annotations

import os
from pathlib import Path

import fake_gpus
import pytest

from pipeline.system import hardware
from pipeline.system.hardware import _group_memory, gpu_names, usable_cores, visible_gpus


@pytest.mark.parametrize(
    ("limit", "free"), [("8000", [8000 - 5000 + 1000]), ("max", []), ("3000", [0]), ("nonsense", []), (None, [])]
)
def test_a_container_has_what_its_limit_leaves_and_cached_files_hold(limit, free, tmp_path: Path) -> None:
    if limit is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("5000\n")
    (tmp_path / "memory.stat").write_text("anon 3000\ninactive_file 1000\n")
    assert [left for _, left in _group_memory(tmp_path)] == free


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1), ("max 100000", 3), ("nonsense", 3), (None, 3)],
)
def test_a_container_has_the_cores_that_its_time_is_enough_for(limit, cores, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 5})
    if limit is not None:
        (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize("version", [1, 2])
def test_a_job_of_slurm_has_what_its_own_group_and_those_above_leave(version, tmp_path: Path, monkeypatch) -> None:
    """Its group is not the root that a container sees; a machine of 1 TB looked free to a job of 32 GB."""
    job = "slurm/uid_7/job_42"
    listed = tmp_path / "listed"
    listed.write_text(f"5:devices:/\n4:memory:/{job}/step\n3:cpu,cpuacct:/{job}\n0::/{job}/step\n")
    monkeypatch.setattr(hardware, "LISTED", listed)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    memory, cpu = (tmp_path / name / job if version == 1 else tmp_path / job for name in ("memory", "cpu"))
    for folder in (memory / "step", cpu):
        folder.mkdir(parents=True, exist_ok=True)
    unlimited = str(2**63 - 4096) if version == 1 else "max"
    limit, used = ("limit_in_bytes", "usage_in_bytes") if version == 1 else ("max", "current")
    for folder, most in ((memory / "step", unlimited), (memory, "32000")):
        (folder / f"memory.{limit}").write_text(f"{most}\n")
        (folder / f"memory.{used}").write_text("5000\n")
        (folder / "memory.stat").write_text("inactive_file 1000\ntotal_inactive_file 1000\n")
    if version == 1:
        (cpu / "cpu.cfs_quota_us").write_text("400000\n")
        (cpu / "cpu.cfs_period_us").write_text("100000\n")
    else:
        (cpu / "cpu.max").write_text("400000 100000\n")
    assert min(_group_memory(tmp_path)) == (32000, 28000)
    assert usable_cores(tmp_path) == 4


@pytest.fixture
def _forget():
    yield
    hardware.visible_gpus.cache_clear()


@pytest.mark.usefixtures("_forget")
@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["0", "1", "2", "3"]),
        ("2, 0", ["2", "0"]),
        ("1,3,", ["1", "3"]),
        ("1,-1,2", ["1"]),
        ("1,9,2", ["1"]),
        ("01", ["1"]),
        ("GPU-3f,GPU-2a,1", ["GPU-3f", "GPU-2a"]),
        ("MIG-1f", ["MIG-1f"]),
        # CUDA has none of these either.
        ("", []),
        (" ", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("none", []),
        ("4", []),
        ("2,2", []),
    ],
)
def test_as_many_gpus_are_visible_as_cuda_reads_in_its_variable(visible, names, tmp_path: Path, monkeypatch) -> None:
    """What SLURM says where a job has no GPU, and a comma at the end, counted as one more."""
    fake_gpus.put_on_path(monkeypatch, tmp_path, 4, visible=visible)
    assert gpu_names() == names
    assert visible_gpus() == len(names)
