"""Starting workers: alone or under torchrun, what reaches the terminal, what a failure says, one at a time in a folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.schema import LaunchConfig, RunConfig, StageConfig
from pipeline.errors import UserError
from pipeline.run_dir import RunDir
from stages.processes.command import run_cli
from stages.processes.work import Work, folder_lock
from stages.processes.workers import run_workers

STAGE = "stage1_sft"


@pytest.fixture
def work(tmp_path: Path) -> Callable[..., Work]:
    def make(**launch: object) -> Work:
        config = RunConfig(
            name="run",
            output_dir=str(tmp_path),
            stages={STAGE: StageConfig(algorithm="sft", init_from="base", data="cot")},
            launch=LaunchConfig(**launch),
        )
        return Work(config, STAGE, RunDir(tmp_path, "run"))

    return make


@pytest.mark.parametrize(
    ("module", "launch", "torchrun"),
    [
        ("sft", {"num_processes": 1}, False),
        ("sft", {"num_processes": 2}, True),
        ("sft", {"num_processes": 1, "deepspeed": "zero2"}, True),
        ("evaluate", {"num_processes": 2}, True),
        ("evaluate", {"num_processes": 1, "deepspeed": "zero2"}, False),
        # Two would write the same files at one time.
        ("base", {"num_processes": 2, "deepspeed": "zero2"}, False),
    ],
)
def test_what_needs_several_processes_is_started_under_torchrun(work, python, module, launch, torchrun):
    python('echo "$@"')
    run_workers(module, work(**launch), ["--stage", "1"])
    command = (work().folder / "logs" / f"{module}-001" / "launcher.log").read_text().split()
    assert ("torch.distributed.run" in command) == torchrun
    assert (f"--nproc_per_node={launch['num_processes']}" in command) == torchrun
    assert command[-5:] == ["-m", f"stages.{module}", "--stage", "1", "--worker"]


EVENT = r'{"time": 1, "level": "%s", "name": "stages.x", "text": "%s"}'


def test_what_a_worker_tells_reaches_the_terminal_and_its_noise_the_log_alone(work, python, capsys):
    told = EVENT % ("INFO", "  step 1/8")
    python(
        f"echo library noise; echo '{told}' >> \"$CLGRPO_LOGS/events.jsonl\"; printf '{{half' >> \"$CLGRPO_LOGS/events.jsonl\""
    )
    run_workers("sft", work(), [])
    assert capsys.readouterr().err == "  step 1/8\n"
    assert (work().folder / "logs" / "sft-001" / "launcher.log").read_text() == "library noise\n"


def test_a_failed_worker_is_told_with_its_last_lines_and_how_to_go_on(work, python):
    python('echo "RuntimeError: no room left"; exit 7')
    with pytest.raises(UserError) as failed:
        run_workers("sft", work(), [])
    message = str(failed.value)
    assert "exit status 7" in message
    assert "RuntimeError: no room left" in message
    assert "sft-001" in message
    assert "The same command goes on" in message


@pytest.mark.parametrize(
    ("module", "cure"),
    [("sft", "gradient_checkpointing: true"), ("sft", "--clean"), ("evaluate", "evaluation.max_new_tokens")],
)
def test_a_worker_without_memory_is_told_with_what_fits(work, python, module, cure):
    python('echo "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"; exit 1')
    with pytest.raises(UserError, match=f"goes on: .*where other programs took the memory; where none did, .*{cure}"):
        run_workers(module, work(), [])


def test_every_start_keeps_a_log_of_its_own(work, python):
    python("echo once")
    for _ in range(2):
        run_workers("sft", work(), [])
    assert sorted(path.name for path in (work().folder / "logs").iterdir()) == ["sft-001", "sft-002"]


def test_a_folder_in_use_is_refused_and_free_again_when_its_user_dies(tmp_path, repo_root):
    hold = "import sys, time\nfrom pathlib import Path\nfrom stages.processes.work import folder_lock\n"
    hold += "with folder_lock(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    holder = subprocess.Popen([sys.executable, "-c", hold, tmp_path], cwd=repo_root, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="in use by another process"), folder_lock(tmp_path, wait=0):
            pass
    finally:
        holder.kill()
        holder.wait()
    with folder_lock(tmp_path, wait=5):
        pass


@pytest.mark.parametrize(("raised", "code"), [(UserError(["one", "two"]), 2), (KeyboardInterrupt(), 130), (None, 0)])
def test_an_entry_point_ends_with_the_code_of_what_happened(raised, code, capsys):
    def main() -> int:
        if raised:
            raise raised
        return 0

    with pytest.raises(SystemExit) as end:
        run_cli(main)
    assert end.value.code == code
    said = {2: "error: one\nerror: two\n", 130: "\nstopped; the same command goes on where it was\n", 0: ""}
    assert capsys.readouterr().err == said[code]
