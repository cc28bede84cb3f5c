"""What a person runs first on a GPU machine: the checks' order and limits, its table, and a file that may be sent on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu_check
from benchmarks.gpu_check import FAIL, OK, SKIPPED, CheckResult, Machine
from pipeline.checks.run import check
from pipeline.config.loader import load
from pipeline.files import ROOT


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three checks that are over at once, on a machine without a GPU."""

    def good(machine: Machine, seconds: float) -> CheckResult:
        """One that works."""
        return CheckResult(OK, "seen", 3 * 10**9, 1234.5)

    def bad(machine: Machine, seconds: float) -> CheckResult:
        """One that fails."""
        return gpu_check.failed(
            1, f"noise\nRuntimeError: in {ROOT}/stages and {Path.home()}/x and {machine.folder}/y\n"
        )

    def absent(machine: Machine, seconds: float) -> CheckResult:
        """One that cannot be made."""
        return CheckResult(SKIPPED, "no GPU")

    monkeypatch.setattr(gpu_check, "visible_gpus", lambda: 0)
    monkeypatch.setattr(gpu_check, "CHECKS", {"good": (good, 9), "bad": (bad, 9), "absent": (absent, 9)})


def test_the_table_tells_each_check_and_the_file_holds_no_path(checks: None, tmp_path: Path, capsys) -> None:
    assert gpu_check.main(["--out", str(tmp_path / "out.json"), "--only", "good,bad,absent"]) == 1
    told = capsys.readouterr().out
    assert "| good | ok | 0 | 3.0 GB | 1,234 | seen |" in told
    assert "| bad | FAIL | 0 |  |  | exit status 1: RuntimeError: in ./stages and ~/x and SCRATCH/y |" in told
    assert "| absent | skipped | 0 |  |  | no GPU |" in told
    assert "bad:\nnoise\nRuntimeError" in told
    written = (tmp_path / "out.json").read_text()
    assert str(ROOT) not in written
    found = json.loads(written)
    assert found["checks"]["good"]["tokens"] == 1234.5
    assert {"device", "versions", "commit", "platform"} <= set(found)
    assert gpu_check.main(["--out", str(tmp_path / "out.json"), "--only", "good,absent"]) == 0


def test_a_check_that_is_not_one_is_named_with_those_there_are(checks: None, capsys) -> None:
    with pytest.raises(SystemExit):
        gpu_check.main(["--only", "goood"])
    assert "goood: there are good, bad, absent" in capsys.readouterr().err


def test_what_hangs_is_killed_with_all_it_started_and_told(tmp_path: Path) -> None:
    code = f"""
import subprocess
child = subprocess.Popen(["sleep", "900"])
open(r"{tmp_path}/pid", "w").write(str(child.pid))
child.wait()
"""
    began = time.monotonic()
    ended, output = Machine((), tmp_path).python(["-c", code], 5)
    assert ended is None
    assert time.monotonic() - began < 600
    assert gpu_check.failed(ended, output).note.startswith("its time was over")
    process = Path("/proc") / (tmp_path / "pid").read_text()
    time.sleep(0.2)
    assert not process.exists() or not (process / "cmdline").read_bytes()


@pytest.mark.parametrize(
    ("drift", "grad", "state", "told"),
    [
        ([0.01, 0.02, 0.015, 0.02], 1.0, OK, "0.010 nats from the trainer at first, 0.020 once weights moved"),
        # A server that keeps the weights it began with.
        ([0.01, 2.5, 4.0, 5.0], 1.0, FAIL, "the server does not have the weights it is sent"),
        ([0.01, 0.01, 0.01, 0.01], 0.0, FAIL, "its weights did not move"),
        ([], 1.0, FAIL, "nothing is known of what is sent"),
    ],
)
def test_a_server_without_the_weights_it_is_sent_fails_its_check(
    drift: list[float], grad: float, state: str, told: str
) -> None:
    rows = [{"sampling/sampling_logp_difference/mean": one, "grad_norm": grad} for one in drift]
    found = gpu_check.with_drift(CheckResult(OK, "2 stages"), rows or [{"grad_norm": grad}])
    assert found.state == state
    assert told in found.note


@pytest.mark.parametrize("gpus", [(), ("0",)])
@pytest.mark.parametrize("stages", [2, 4])
def test_what_is_trained_breaks_no_rule_and_names_no_download(
    stages: int, gpus: tuple[str, ...], tmp_path: Path
) -> None:
    run = gpu_check.small_run(Machine(gpus, tmp_path), "run", stages)
    file = tmp_path / "run.yaml"
    file.write_text(gpu_check.yaml.safe_dump(run, sort_keys=False))
    config = load(str(file))
    check(config)
    assert config.model.name_or_path is None
    assert (config.task.name, config.task.path, list(config.stages)) == (
        "scenes",
        None,
        list(gpu_check.STAGES[:stages]),
    )


def test_tokens_a_second_are_read_from_the_table_of_a_step() -> None:
    table = [
        "| G,P,C | step, s | tokens/s of a step | more |",
        "|---|---|---|---|",
        "| 8,350,128 | 2 / 1 = 2 | 512 / 1024 | x |",
    ]
    assert gpu_check.ours_per_second(table) == 1024
    assert gpu_check.ours_per_second(["| G,P,C | step, s |", "|---|---|", "| 8,350,128 | 1 |"]) is None


@pytest.mark.slow
@pytest.mark.nightly
def test_the_script_walks_the_checks_on_a_cpu(tmp_path: Path) -> None:
    """A run in bfloat16 with its hand-overs; tests of the stages hold what the other checks start."""
    done = subprocess.run(
        [ROOT / "launch" / "check_gpu.sh", "--cpu", "--only", "driver,triton,run,ddp,several", "--out", tmp_path / "out.json"],
        env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "out.json").read_text())["checks"]
    assert {name: one["state"] for name, one in found.items()} == {
        "driver": OK,
        "triton": SKIPPED,
        "run": OK,
        "ddp": SKIPPED,
        "several": SKIPPED,
    }
    assert found["run"]["note"].startswith("2 stages of 8 steps, handed over within")
    assert found["run"]["tokens"] > 0
    assert found["run"]["memory"] > 10**8
