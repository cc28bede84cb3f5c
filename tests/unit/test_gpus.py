"""What would be launched on machines with GPUs, which are simulated: devices, precision, batches, flags, and what is refused."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import fake_gpus
import pytest
import torch

from pipeline.__main__ import main
from pipeline.checks import run as checks
from pipeline.conductor import schedule, side_by_side
from pipeline.conductor.run import plan
from pipeline.config.derived import prompts_per_rollout, world_size
from pipeline.config.loader import CONFIGS, load, shipped_configs
from pipeline.config.schema import RunConfig
from pipeline.errors import UserError
from pipeline.run_dir import BASE, COT, RunDir
from pipeline.system import hardware
from pipeline.system.processes import Children
from stages import sweep
from stages.models import loading
from stages.processes.work import Work
from stages.processes.workers import run_workers
from stages.rollouts import vllm_server
from stages.training import setup
from stages.training.stage import main as train_stage
from stages.trial import fitting
from stages.trial.fit import Measured

RUNS = [str(path.relative_to(CONFIGS)) for path in shipped_configs()]
EMOSET = [name for name in RUNS if name.startswith("emoset/")]


# Reading one takes most of a test.
shipped = functools.cache(load)


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    hardware.visible_gpus.cache_clear()


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Simulates a number of GPUs that torch can use."""

    def simulate(count: int, *, usable: bool = True, bfloat16: bool = True, **how: object) -> None:
        folder = tmp_path / "driver"
        folder.mkdir(exist_ok=True)
        fake_gpus.put_on_path(monkeypatch, folder, count, **how)  # type: ignore[arg-type]
        if usable:
            fake_gpus.believe(monkeypatch, count, bfloat16=bfloat16)

    return simulate


@pytest.fixture
def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What the workers of a stage would be started with: (CUDA_VISIBLE_DEVICES or "all", words)."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "${CUDA_VISIBLE_DEVICES-all}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))

    def start(module: str, config: RunConfig, name: str) -> tuple[str, list[str]]:
        work = Work(config, name, RunDir(tmp_path / "runs", config.name))
        run_workers(module, work, ["--stage", name])
        last = max((work.folder / "logs").glob(f"{module}-*"))
        devices, *words = (last / "launcher.log").read_text().split()
        return devices, words

    return start


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("name", RUNS)
def test_every_preset_is_launched_on_the_gpus_and_in_the_batches_it_says(
    name: str, count: int, gpus, launched, tmp_path: Path
) -> None:
    gpus(count)
    config = shipped(name)
    processes = config.launch.num_processes or count - config.launch.rollout_gpus
    if processes > count:
        with pytest.raises(UserError, match="more than the 1 visible GPUs"):
            checks.check(config)
        return
    assert world_size(config) == processes
    found = {}
    for stage in config.all_stages:
        work = Work(config, stage, RunDir(tmp_path / "runs", config.name))
        # How they are started depends on nothing else of a stage.
        if work.stage.algorithm not in found:
            found[work.stage.algorithm] = launched(work.stage.algorithm, config, stage)
        devices, words = found[work.stage.algorithm]
        # One process sees one GPU; each of several takes its own by its local rank.
        assert devices == ("0" if processes == 1 < count else "all")
        torchrun = processes > 1 or bool(config.launch.deepspeed or config.launch.rollout_gpus)
        assert ("torch.distributed.run" in words) == torchrun
        assert not torchrun or f"--nproc_per_node={processes}" in words
        arguments = setup.trainer_arguments(work)
        assert not arguments["use_cpu"]
        assert arguments["bf16"] == (config.model.dtype != "float32")
        assert bool(arguments["deepspeed"]) == bool(config.launch.deepspeed)
        # It would pass over what /dev/shm holds.
        assert "dataloader_num_workers" not in work.stage.trainer


@pytest.mark.parametrize("name", EMOSET)
def test_an_update_of_the_emoset_presets_has_the_same_rows_on_one_gpu_and_on_eight(name: str, gpus) -> None:
    gpus(8)
    config = shipped(name)
    for stage in config.all_stages.values():
        own = stage.trainer["per_device_train_batch_size"] * stage.trainer["gradient_accumulation_steps"]
        assert own * world_size(config) == (64 if stage.algorithm == "sft" else 128)
        if stage.algorithm == "grpo":
            assert prompts_per_rollout(config, stage) == 16


@pytest.mark.parametrize(("visible", "device"), [(None, "0"), ("3", "all"), ("5,6", "5"), ("GPU-2,GPU-4", "GPU-2")])
def test_one_process_takes_the_first_gpu_it_was_given(visible: str | None, device: str, gpus, launched) -> None:
    gpus(8, visible=visible)
    config = load("demo", ["launch.num_processes=1"])
    given = "3" if visible == "3" else device
    for module in ("sft", "evaluate", "preflight"):
        assert launched(module, config, "stage1_sft")[0] == given


def test_gpus_kept_for_a_server_stay_visible_and_are_named_to_it(gpus, launched, tmp_path) -> None:
    gpus(4)
    config = load("demo", ["launch.num_processes=1", "launch.rollout_gpus=2", "stages.3.rollouts=vllm"])
    devices, words = launched("grpo", config, "stage3_grpo_accuracy")
    assert (devices, "torch.distributed.run" in words) == ("all", True)
    assert vllm_server.server_gpus(config) == ("2", "3")
    flags = vllm_server.flags(config, tmp_path, ("2", "3"), 8000)
    assert (flags["data-parallel-size"], flags["gpu-memory-utilization"], flags["dtype"]) == (2, None, "auto")
    spread = load("demo", ["launch.rollout_gpus=2", "launch.rollout_flags={tensor-parallel-size: 2}"])
    flags = vllm_server.flags(spread, tmp_path, ("2", "3"), 8000)
    assert (flags["data-parallel-size"], flags["tensor-parallel-size"]) == (None, 2)


def test_a_run_with_gpus_for_a_server_is_planned_and_watched_elsewhere_and_not_started(gpus, tmp_path: Path) -> None:
    gpus(0)
    words = ["--config", "demo", f"output_dir={tmp_path}", "launch.rollout_gpus=2"]
    for looks in (["plan"], ["status"], ["run", "--dry-run"]):
        assert main([*looks, *words]) == 0
    stage = functools.partial(train_stage, "grpo", None, lambda work: None)
    assert stage(["--stage", "3", "--dry-run", *words]) == 0
    for start in (lambda: main(["run", *words]), lambda: stage(["--stage", "3", *words])):
        with pytest.raises(
            UserError, match=r"launch\.rollout_gpus: 2 for a server, and this machine has 0 visible GPUs"
        ):
            start()


def test_a_plan_says_which_gpus_idle_and_how_to_use_them(gpus, tmp_path: Path) -> None:
    gpus(8)
    config = load("demo", [f"output_dir={tmp_path}", "launch.num_processes=1"])
    told = plan(config, RunDir(tmp_path, "demo"))
    assert "uses 1 of 8 visible GPUs (0), the others idle: launch.num_processes=8 uses them all" in told
    assert "idle" not in plan(load("demo", [f"output_dir={tmp_path}"]), RunDir(tmp_path, "demo"))


def test_a_lab_asks_a_cell_on_each_gpu(gpus) -> None:
    gpus(8, visible="2,3,5")
    assert sweep._slots(None) == ["2", "3", "5"]
    assert sweep._slots(1) == ["2"]


FIRST_IS_FREE = "$((80000 - 79999 * (i > 0)))"


class Trials:
    """Measurements of a preflight, of little."""

    def __init__(self, config: RunConfig, run: RunDir) -> None:
        self.config, self.run = config, run

    def evaluation(self, rows: int) -> Measured:
        return Measured(rows, 1.0)

    def stage(self, *_: object) -> Measured:
        return Measured(1.0, 1.0)


def test_memory_is_that_of_the_gpus_a_run_uses(gpus, tmp_path: Path) -> None:
    gpus(2, free=FIRST_IS_FREE)
    config = load("demo", ["launch.num_processes=1", "baselines={}"])
    run = RunDir(tmp_path, "demo")
    assert not fitting.fit(config, Trials(config, run), 8).problems  # type: ignore[arg-type]
    assert schedule.lacks_room(config, run, BASE, [COT], 10**12) is None
    begun = side_by_side._SideBySide(config, run, [COT, BASE], 2, Children())
    assert begun.at_start == 80000 << 20
    # With both, the one that another user fills counts.
    both = load("demo", ["launch.num_processes=2", "baselines={}"])
    assert side_by_side._SideBySide(both, run, [COT, BASE], 2, Children()).at_start == 1 << 20


def test_memory_is_that_of_the_gpus_a_sweep_uses(gpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpus(3, free=FIRST_IS_FREE)
    lab = tmp_path / "lab.yaml"
    lab.write_text(
        f"name: trial\noutput_dir: {tmp_path}\ntasks: {{t: {{task: {{name: scenes}}, split: 'test[:4]'}}}}\n"
        "models: {served: {name_or_path: m, backend: openai, base_url: http://127.0.0.1:9/v1}}\n"
    )
    for words, free in ((["--workers", "1"], "83\u202f886 MB"), ([], "1 MB")):
        sweep.main(["--config", str(lab), "--dry-run", *words])
        assert f"; {free} free" in capsys.readouterr().out


def test_a_gpu_whose_memory_nobody_tells_is_fitted_to_what_the_user_says(gpus, tmp_path: Path) -> None:
    gpus(1, free="[N/A]")
    config = load("demo", ["baselines={}"])
    trials = Trials(config, RunDir(tmp_path, "demo"))
    with pytest.raises(UserError, match=r"--fit: nvidia-smi does not tell the free memory of GPU 0.*--memory 8"):
        fitting.fit(config, trials, 8)  # type: ignore[arg-type]
    assert not fitting.fit(config, trials, 8, memory=8e9).problems  # type: ignore[arg-type]


def test_gpus_that_torch_cannot_use_are_refused_and_not_trained_without(gpus, monkeypatch) -> None:
    gpus(2, usable=False, driver="535.183.01")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(UserError, match=r"2 GPUs with driver 535\.183\.01, .*CUDA 13\.0; update the driver") as told:
        loading.use_cpu()
    assert torch.__version__ in str(told.value)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UserError, match=r"without CUDA; run \./launch/install\.sh again"):
        loading.compute_dtype(load("demo"))
    # As the message says.
    gpus(2, usable=False, visible="")
    assert loading.use_cpu()


@pytest.mark.parametrize(("asked", "used"), [("auto", "float32"), ("float32", "float32"), ("bfloat16", "bfloat16")])
def test_a_gpu_that_only_emulates_bfloat16_trains_in_float32_unless_told(asked: str, used: str, gpus) -> None:
    gpus(1, name="Tesla T4", bfloat16=False)
    assert loading.compute_dtype(load("demo", [f"model.dtype={asked}"])) == used
    assert loading.emulates_bfloat16()
    gpus(1)
    assert loading.compute_dtype(load("demo")) == "bfloat16"
    assert not loading.emulates_bfloat16()


def test_training_on_a_gpu_without_a_c_compiler_or_its_header_is_refused_before_it_starts(gpus, monkeypatch) -> None:
    gpus(1)
    checks.check(load("demo"))
    find = shutil.which
    monkeypatch.setattr(hardware.shutil, "which", lambda name: None if name in ("gcc", "clang") else find(name))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(hardware.sysconfig, "get_path", lambda name: "/nowhere")
    with pytest.raises(UserError) as told:
        checks.check(load("demo"))
    compiler, header = told.value.problems
    assert "needs a C compiler" in compiler
    assert "needs Python.h" in header
    gpus(1, visible="")
    # A CPU compiles nothing.
    checks.check(load("demo"))


def test_a_rollout_server_is_given_no_more_context_than_fits(tmp_path) -> None:
    assert vllm_server.flags(load("demo"), tmp_path, ("0",), 8000)["max-model-len"] == -1
    own = load("demo", ["launch.rollout_flags={max-model-len: 900}"])
    assert vllm_server.flags(own, tmp_path, ("0",), 8000)["max-model-len"] == 900


def test_a_rollout_server_asks_for_no_key_that_is_set_for_teachers(tmp_path, monkeypatch) -> None:
    started = []
    monkeypatch.setenv("VLLM_API_KEY", "for-teachers")
    monkeypatch.setattr(vllm_server, "start_server", lambda command, log, environment: started.append(environment))
    monkeypatch.setattr(vllm_server, "wait_until_ready", lambda *_: None)
    monkeypatch.setattr(vllm_server, "stop", lambda processes: None)
    work = Work(load("demo"), "stage2_grpo_format", RunDir(tmp_path, "demo"))
    with vllm_server.running(work, tmp_path):
        assert started[0]["VLLM_API_KEY"] == ""
        assert started[0]["VLLM_SERVER_DEV_MODE"] == "1"


def test_a_rollout_server_on_several_nodes_is_refused_by_name(gpus, monkeypatch) -> None:
    gpus(8)
    for name, value in {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "node1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"stage3_grpo_accuracy\.rollouts: vllm on 2 nodes") as told:
        checks.check(load("demo", ["stages.3.rollouts=vllm", "launch.num_processes=8"]))
    assert "set rollouts: transformers" in str(told.value)


def test_pictures_are_read_ahead_only_where_shared_memory_holds_them(gpus, tmp_path: Path, monkeypatch) -> None:
    gpus(1)
    monkeypatch.setattr(setup, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    configs = [load("emoset/smolvlm_256m"), load("extraction_emoset")]
    for free, workers in ((64 * 2**20, 0), (64 * 2**30, 4)):
        monkeypatch.setattr(setup.shutil, "disk_usage", lambda _, free=free: shutil._ntuple_diskusage(free, 0, free))
        for config in configs:
            work = Work(config, next(iter(config.stages)), RunDir(tmp_path, "run"))
            assert setup.trainer_arguments(work)["dataloader_num_workers"] == workers
