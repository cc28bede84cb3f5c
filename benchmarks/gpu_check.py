"""Whether a machine can run everything: driver, Triton, all stages in bfloat16, ZeRO-2, vLLM rollouts, several GPUs, speed.

    ./launch/check_gpu.sh [--cpu] [--only driver,triton,…] [--out check_gpu.json]

Models are random and pictures are drawn, so it needs no network, no weights and no data. Each check runs in processes of its own
with a time limit, several times what it is expected to take: a slow disk is no fault. What is told of a check is its time, the
most memory one process had on its device, and tokens a second: of a run all that its stages trained on (prompts too), of the last
check completions.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.loader import CONFIGS
from pipeline.files import ROOT, read_json, read_jsonl, write_json
from pipeline.formatting import size
from pipeline.runs.provenance import provenance
from pipeline.system.hardware import gpu_names, visible_gpus
from pipeline.system.processes import child_environment

OK, FAIL, SKIPPED = "ok", "FAIL", "skipped"
STAGES = ("stage1_sft", "stage2_grpo_format", "stage3_grpo_accuracy", "stage4_clgrpo")
TINY = {"hidden_size": 64, "layers": 1, "intermediate_size": 128, "vision_hidden_size": 64, "vision_layers": 1}
CARD = {"hidden_size": 512, "layers": 8, "intermediate_size": 1408, "vision_hidden_size": 384, "vision_layers": 4}
"""Sizes of the random student on a CPU and on a card."""
DRIFT = "sampling/sampling_logp_difference/mean"
STALE = 0.1
"""Nats a token by which a server may be farther from the trainer than twice what it is before the first update."""


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """What a check found.

    Args:
        state: ok, FAIL or skipped.
        note: why it failed or was skipped, or what was seen.
        memory: most bytes one process had on its device.
        tokens: a second.
        told: more lines for the reader.
    """

    state: str
    note: str = ""
    memory: int | None = None
    tokens: float | None = None
    told: str = ""
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Machine:
    """Where the checks run: GPUs by name, none for a CPU, and a folder for what they write."""

    gpus: tuple[str, ...]
    folder: Path

    def python(self, words: Sequence[object], seconds: float, gpus: int = 1) -> tuple[int | None, str]:
        """(exit code, output) of Python with these words; None when its time was over and it was killed with all it started."""
        environment = child_environment(
            HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", CUDA_VISIBLE_DEVICES=",".join(self.gpus[:gpus])
        )
        with tempfile.TemporaryFile() as output:
            child = subprocess.Popen(
                [sys.executable, *map(str, words)],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            code: int | None = None
            try:
                code = child.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                pass
            finally:
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
            output.seek(0)
            return code, output.read().decode(errors="replace")


DRIVER = """
import json, torch
from stages.models.loading import emulates_bfloat16, use_cpu
cpu = use_cpu()
name = "no GPU" if cpu else torch.cuda.get_device_name(0)
total = 0 if cpu else torch.cuda.get_device_properties(0).total_memory
capability = "" if cpu else " sm_%d%d" % torch.cuda.get_device_capability(0)
bfloat16 = "" if cpu else ", no bfloat16 of its own" if emulates_bfloat16() else ", bfloat16"
print(json.dumps({"note": f"{name}{capability}{bfloat16}, torch {torch.__version__}", "memory": total}))
"""
KERNEL = """
import torch, triton
import triton.language as tl

@triton.jit
def add_one(x, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(x + at, mask=at < n) + 1, mask=at < n)

x = torch.arange(1000, device="cuda", dtype=torch.float32)
out = torch.empty_like(x)
add_one[(8,)](x, out, 1000, BLOCK=128)
assert torch.equal(out, x + 1)
"""


def check_driver(machine: Machine, seconds: float) -> CheckResult:
    """Device, driver and precision, as a stage finds them."""
    code, output = machine.python(["-c", DRIVER], seconds)
    if code:
        return failed(code, output)
    found = json.loads(output.splitlines()[-1])
    return CheckResult(OK, found["note"], found["memory"] or None)


def check_triton(machine: Machine, seconds: float) -> CheckResult:
    """A kernel compiled and run, as TRL's head is at the first step."""
    if not machine.gpus:
        return CheckResult(SKIPPED, "no GPU")
    file = machine.folder / "kernel.py"
    file.write_text(KERNEL)
    code, output = machine.python([file], seconds)
    return failed(code, output) if code != 0 else CheckResult(OK, "compiled and ran a kernel")


def check_run(machine: Machine, seconds: float) -> CheckResult:
    """Every stage in bfloat16 in one process, each handed over, verified and evaluated; on a CPU the first two."""
    return trained(machine, "run", seconds, stages=len(STAGES) if machine.gpus else 2)


def check_zero2(machine: Machine, seconds: float) -> CheckResult:
    """SFT and GRPO under DeepSpeed's ZeRO-2; a stage that is to learn nothing hands on its parent's weights, bit for bit."""
    # No float32 moves by it, and 0 is refused.
    words = ("launch.deepspeed=zero2", f"stages.{STAGES[2]}.trainer.learning_rate=1.0e-60")
    outcome = trained(machine, "zero2", seconds, *words, stages=3)
    if outcome.state != OK:
        return outcome
    before, after = (read_json(machine.folder / "zero2" / stage / "stage.json")["weights"] for stage in STAGES[1:3])
    if before != after:
        note = "at a learning rate of 1e-60 a stage handed over other weights than it was given: it began with rounded ones"
        return dataclasses.replace(outcome, state=FAIL, note=note)
    return outcome


def check_rollouts(machine: Machine, seconds: float) -> CheckResult:
    """GRPO whose completions a vLLM server samples."""
    if importlib.util.find_spec("vllm") is None:
        return CheckResult(SKIPPED, "vLLM is not installed: ./launch/install.sh --vllm")
    # So fast that a server which kept the weights of the step before is nats away from the trainer.
    words = ("stages.stage2_grpo_format.rollouts=vllm", "stages.stage2_grpo_format.trainer.learning_rate=3.0e-3")
    outcome = trained(machine, "rollouts", seconds, *words)
    if outcome.state != OK:
        return outcome
    return with_drift(outcome, list(read_jsonl(machine.folder / "rollouts" / STAGES[1] / "metrics.jsonl")))


def with_drift(outcome: CheckResult, rows: Sequence[dict[str, Any]]) -> CheckResult:
    """The outcome with how far the server's log-probabilities are from the trainer's; FAIL where they part once weights move.

    Args:
        outcome: of the run.
        rows: the log of its GRPO stage.
    """
    drift = [row[DRIFT] for row in rows if DRIFT in row]
    if not any(row.get("grad_norm", 0.0) > 0 for row in rows) or len(drift) < 2:
        return dataclasses.replace(
            outcome, state=FAIL, note="its weights did not move, so nothing is known of what is sent"
        )
    told = f"{drift[0]:.3f} nats from the trainer at first, {max(drift[1:]):.3f} once weights moved"
    if max(drift[1:]) > 2 * drift[0] + STALE:
        return dataclasses.replace(outcome, state=FAIL, note=f"the server does not have the weights it is sent: {told}")
    return dataclasses.replace(outcome, note=f"{outcome.note}; {told}")


def check_ddp(machine: Machine, seconds: float) -> CheckResult:
    """Two GPUs without DeepSpeed; a stage ends where they do not train one model."""
    if len(machine.gpus) < 2:
        return CheckResult(SKIPPED, f"{len(machine.gpus)} GPUs are visible")
    return trained(machine, "ddp", seconds, processes=2)


def check_several(machine: Machine, seconds: float) -> CheckResult:
    """Two GPUs under ZeRO-3 with an uneven validation: three batches on two processes."""
    if len(machine.gpus) < 2:
        return CheckResult(SKIPPED, f"{len(machine.gpus)} GPUs are visible")
    words = ("launch.deepspeed=zero3", "stages.stage1_sft.validation={split: val}", "evaluation.batch_size=2")
    return trained(machine, "several", seconds, *words, processes=2)


def check_step(machine: Machine, seconds: float) -> CheckResult:
    """A GRPO step of a model of 500 million weights beside bare TRL's; a tiny one's on a CPU."""
    large = ["--points", "8,350,128", "--size", "smolvlm-500m", "--device", "cuda", "--rounds", "2", "--steps", "2"]
    small = ["--points", "2,90,4", "--size", "mini", "--device", "cpu", "--rounds", "1", "--steps", "1"]
    code, output = machine.python(["-m", "benchmarks.grpo_step", *(large if machine.gpus else small)], seconds)
    if code != 0:
        return failed(code, output)
    table = [line for line in output.splitlines() if line.startswith("|")]
    return CheckResult(
        OK, "seconds and memory: TRL's / ours = ratio, below", None, ours_per_second(table), "\n".join(table)
    )


def ours_per_second(table: Sequence[str]) -> float | None:
    """Our tokens a second in the table of benchmarks.grpo_step; None where it tells none."""
    header, _, row = ([cell.strip() for cell in line.strip("|").split("|")] for line in table[:3])
    cells = [cell for name, cell in zip(header, row, strict=False) if name.startswith("tokens/s")]
    return float(cells[0].split("/")[1].replace(",", "")) if cells and "/" in cells[0] else None


CHECKS: dict[str, tuple[Callable[[Machine, float], CheckResult], float]] = {
    "driver": (check_driver, 120),
    "triton": (check_triton, 120),
    "run": (check_run, 600),
    "zero2": (check_zero2, 600),
    "rollouts": (check_rollouts, 720),
    "ddp": (check_ddp, 450),
    "several": (check_several, 450),
    "step": (check_step, 600),
}
"""Name: what does it, and the most seconds it may take on a card."""


def parity_reward(completions: list[str], **columns: Any) -> list[float]:
    """Reward texts of an odd length: a random student earns nothing else, and without a difference nothing moves."""
    return [float(len(text) % 2) for text in completions]


def small_run(machine: Machine, name: str, stages: int) -> dict[str, Any]:
    """configs/demo_scenes.yaml with few rows, four steps a stage, in bfloat16, cut to its first stages."""
    run: dict[str, Any] = yaml.safe_load((CONFIGS / "demo_scenes.yaml").read_text())
    del run["baselines"]
    run |= {"name": name, "output_dir": str(machine.folder)}
    run["task"]["options"] = {"seed": 0, "train": 64, "val": 6, "test": 8, "size": 64}
    run["model"] = {"dtype": "bfloat16", "tiny": {**(CARD if machine.gpus else TINY), "vocab_size": 400}}
    run["cot"] = {"split": "train", "teachers": ["attribute"]}
    run["evaluation"] = {"batch_size": 4, "max_new_tokens": 16, "samples": 0}
    run["launch"] = {"num_processes": 1}
    run["stages"] = {stage: run["stages"][stage] for stage in STAGES[:stages]}
    for stage in run["stages"].values():
        few = {"max_steps": 4, "per_device_train_batch_size": 8}
        few |= (
            {"num_generations": 4, "max_completion_length": 16} if stage["algorithm"] == "grpo" else {"warmup_steps": 0}
        )
        stage["trainer"] = {**stage["trainer"], **few, "save_steps": 4}
        stage |= {"split": "train", "gate": {"action": "warn"}}
        if stage["algorithm"] == "grpo":
            stage["reward_funcs"] = [*stage["reward_funcs"], "benchmarks.gpu_check.parity_reward"]
    return run


def trained(
    machine: Machine, name: str, seconds: float, *settings: str, stages: int = 2, processes: int = 1
) -> CheckResult:
    """Run the pipeline at its smallest; what its stages' records say."""
    config = machine.folder / f"{name}.yaml"
    config.write_text(yaml.safe_dump(small_run(machine, name, stages), sort_keys=False))
    command = ["-m", "pipeline", "run", "--config", config, f"launch.num_processes={processes}", *settings]
    code, output = machine.python(command, seconds, gpus=processes)
    if code != 0:
        return failed(code, output)
    folders = [machine.folder / name / stage for stage in STAGES[:stages]]
    records = [read_json(folder / "stage.json") for folder in folders]
    tokens = sum(max(row.get("num_tokens", 0) for row in read_jsonl(folder / "metrics.jsonl")) for folder in folders)
    difference = max(record["verification"]["logits"]["difference"] for record in records)
    return CheckResult(
        OK,
        f"{stages} stages of {sum(record['steps'] for record in records)} steps, handed over within {difference:.1e}",
        max(max(record["usage"]["peak_memory_bytes"]) for record in records),
        tokens / max(1e-9, sum(record["seconds"] for record in records)),
    )


def failed(code: int | None, output: str) -> CheckResult:
    """A check that did not end as it should, with the last lines it wrote."""
    lines = [line for line in output.splitlines() if line.strip()]
    what = "its time was over" if code is None else f"exit status {code}"
    return CheckResult(
        FAIL, f"{what}: {lines[-1].strip() if lines else 'it wrote nothing'}", told="\n".join(lines[-25:])
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks, print the table and write the JSON; 1 when one failed."""
    parser = argparse.ArgumentParser(
        prog="./launch/check_gpu.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cpu", action="store_true", help="on the CPU, with the smallest sizes")
    parser.add_argument("--only", default=",".join(CHECKS), help="names of checks, with commas between")
    parser.add_argument("--out", type=Path, default=Path("check_gpu.json"))
    arguments = parser.parse_args(argv)
    names = arguments.only.split(",")
    if strange := [name for name in names if name not in CHECKS]:
        parser.error(f"--only: {', '.join(strange)}: there are {', '.join(CHECKS)}")
    cpu = arguments.cpu or not visible_gpus()
    with tempfile.TemporaryDirectory(prefix="check-gpu-") as scratch:
        found = run_checks(names, Machine(() if cpu else tuple(gpu_names()), Path(scratch)))
        found = {name: without_paths(one, Path(scratch)) for name, one in found.items()}
    print(f"\n{table(found)}")
    for name, one in found.items():
        if one.told:
            print(f"\n{name}:\n{one.told}")
    checks = {name: dataclasses.asdict(one) for name, one in found.items()}
    write_json(arguments.out, {"device": "cpu" if cpu else "gpu", "checks": checks, **provenance()})
    print(f"\nwritten: {arguments.out}")
    return int(any(one.state == FAIL for one in found.values()))


def run_checks(names: Sequence[str], machine: Machine) -> dict[str, CheckResult]:
    """Run the named checks in order, each within its limit; on a CPU within twice that."""
    found = {}
    for name in names:
        check, limit = CHECKS[name]
        print(f"{name}: {(check.__doc__ or '').splitlines()[0]}", flush=True)
        started = time.monotonic()
        outcome = check(machine, limit if machine.gpus else 2 * limit)
        found[name] = dataclasses.replace(outcome, seconds=round(time.monotonic() - started, 1))
    return found


def without_paths(outcome: CheckResult, scratch: Path) -> CheckResult:
    """The same without folders of this machine."""
    note, told = outcome.note, outcome.told
    for path, word in ((scratch, "SCRATCH"), (ROOT, "."), (Path.home(), "~"), (Path(sys.prefix), "PREFIX")):
        note, told = note.replace(str(path), word), told.replace(str(path), word)
    return dataclasses.replace(outcome, note=note, told=told)


def table(found: dict[str, CheckResult]) -> str:
    """The outcomes for a person."""
    lines = ["| check | | seconds | peak memory | tokens/s | |", "|---|---|---|---|---|---|"]
    for name, one in found.items():
        cells: list[Any] = [
            name,
            one.state,
            f"{one.seconds:.0f}",
            size(one.memory) if one.memory else "",
            f"{one.tokens:,.0f}" if one.tokens else "",
            one.note,
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
