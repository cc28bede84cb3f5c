"""The fault matrix of the stages: who was killed when, what it cost, and whether the weights come out the same bit for bit.

    python -m benchmarks.stage_faults [--launch plain|zero2|zero3] [--kills 8] [--seed 0]

A small run (SFT, then GRPO, over several epochs each) is done undisturbed, then once more while one of its processes is killed
with SIGKILL at seeded random moments; after every kill the same command goes on. At the end the weights of both are
compared. Most of the time goes into starting processes: about 20 s a kill on an idle core, 40 s with two ranks.

Columns: `kills` how often; `steps again` optimizer steps that had to be repeated, in all; `seconds lost` work since the last
whole checkpoint, or since the start, in all. The last line names the weights.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from pipeline import command_line

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "integration")]

from small_runs import Small, steps, weights  # noqa: E402

SFT, GRPO = "stage1_sft", "stage2_grpo_format"
LAUNCHES = {"plain": [], "zero2": ["launch.deepspeed=zero2"], "zero3": ["launch.deepspeed=zero3"]}
MOMENTS = ("starting", "in a step", "in a step", "while saving")


@dataclass
class Cost:
    """What kills of one kind did."""

    kills: int = 0
    steps_again: int = 0
    seconds: float = 0.0


class Bench:
    """One launch kind: the runs and what was found.

    Args:
        root: where the runs go.
        launch: a key of `LAUNCHES`.
        seed: of the moments.
        kills: how many are tried; the stages take so many steps that there is room for them.
    """

    def __init__(self, root: Path, launch: str, seed: int, kills: int) -> None:
        # Of each stage.
        self.kills = (kills + 1) // 2
        self.random = random.Random(f"{launch}-{seed}")
        self.words = [*LAUNCHES[launch], *([] if launch == "plain" else ["launch.num_processes=2"])]
        self.roles = ["conductor", "stage", "rank 0"]
        if launch != "plain":
            self.roles += ["torchrun", "rank 1"]
        config = yaml.safe_load((ROOT / "tests" / "integration" / "small.yaml").read_text())
        config["task"]["options"].update(train=24)
        config["evaluation"] = {"split": "test[:2]", "batch_size": 2, "max_new_tokens": 2, "samples": 0}
        config.pop("baselines")
        batch = {"per_device_train_batch_size": 8 if launch == "plain" else 4}
        stages = {name: config["stages"][name] for name in (SFT, GRPO)}
        stages[SFT]["trainer"].update(max_steps=3 * self.kills + 3, save_steps=2, **batch)
        # SFT would teach it to end at once.
        stages[GRPO].update(init_from="base")
        rollouts = {"save_steps": 4, "num_iterations": 2, "max_completion_length": 8}
        stages[GRPO]["trainer"].update(max_steps=4 * self.kills + 8, **rollouts, **batch)
        file = root / "small.yaml"
        file.write_text(yaml.safe_dump({**config, "stages": stages}))
        self.small = Small(root, ROOT, file)
        self.costs: defaultdict[tuple[str, str], Cost] = defaultdict(Cost)
        self.problems: list[str] = []

    def measure(self) -> None:
        """Run undisturbed, then killed, and compare."""
        print("undisturbed …", file=sys.stderr, flush=True)
        self.small.run("pipeline run", *self.words, name="undisturbed", timeout=3600)
        for name in (SFT, GRPO):
            for number in range(self.kills):
                # Handing over ends a stage, so it comes last.
                role = self.random.choice(self.roles)
                moment = self.random.choice(MOMENTS) if number < self.kills - 1 else "handing over"
                if not self.kill(name, role, moment):
                    print(f"{name} was complete before {role} could be killed {moment}", file=sys.stderr, flush=True)
                    break
        self.small.run("pipeline run", *self.words, name="killed", timeout=3600)
        runs = [self.small.run_dir(name) for name in ("undisturbed", "killed")]
        for name in (SFT, GRPO):
            if weights(runs[0], name) != weights(runs[1], name):
                self.problems.append(f"{name} has other weights")
            if steps(runs[0], name) != steps(runs[1], name):
                self.problems.append(f"{name} has other steps in metrics.jsonl: {steps(runs[1], name)}")

    def kill(self, name: str, role: str, moment: str) -> bool:
        """Go on with the run until a moment of a stage and kill one of its processes; False when it is complete before."""
        run = self.small.run_dir("killed")
        process = self.small.start("pipeline run", *self.words, name="killed", stdout=subprocess.DEVNULL)
        try:
            if not self.wait(process, lambda: self.started(name)):
                return False
            began = time.time()
            happened = self.moment(name, moment)
            if not self.wait(process, happened):
                return (run.record(name) or {}).get("status") != "complete"
            victim = self.find(process.pid, role)
            if victim is None:
                return False
            taken = steps(run, name)
            victim.send_signal(signal.SIGKILL)
            killed = time.time()
            process.wait(timeout=120)
            left = self.small.processes("killed", wait=40)
            if left:
                self.problems.append(f"{role} killed {moment}: still there after 40 s: {left}")
        finally:
            process.kill()
        whole = {int(path.parent.name.split("-")[1]): path.stat().st_mtime for path in self.markers(name)}
        cost = self.costs[role, f"{moment}, {name.split('_')[1]}"]
        cost.kills += 1
        cost.steps_again += max(0, max(taken, default=0) - max(whole, default=0))
        cost.seconds += killed - max(began, whole[max(whole)] if whole else 0)
        print(f"{role} killed {moment} of {name}, at step {max(taken, default=0)}", file=sys.stderr, flush=True)
        return True

    def markers(self, name: str) -> list[Path]:
        return list(self.small.run_dir("killed").phase(name).glob("checkpoint-*/complete"))

    def started(self, name: str) -> bool:
        """Whether a worker of the stage is there and not its evaluation's."""
        found = self.small.processes("killed")
        return any("--worker" in line and f"--stage {name}" in line and "evaluate" not in line for line in found)

    def moment(self, name: str, kind: str) -> Callable[[], bool]:
        """Tells when a seeded random moment of a kind has come."""
        run, folder = self.small.run_dir("killed"), self.small.run_dir("killed").phase(name)
        delay = self.random.uniform(
            0, {"starting": 15, "in a step": 0.3, "while saving": 0.04, "handing over": 0.1}[kind]
        )
        begun = len(steps(run, name))
        wanted = begun + self.random.randint(1, 3)
        since: list[float] = []

        def condition() -> bool:
            if kind == "starting":
                return True
            if kind == "in a step":
                return max(steps(run, name), default=0) != begun and len(steps(run, name)) >= wanted
            if kind == "while saving":
                return any(not (path / "complete").exists() for path in folder.glob("checkpoint-*"))
            return run.final(name).exists() and (run.record(name) or {}).get("status") == "running"

        def happened() -> bool:
            if not since and condition():
                since.append(time.monotonic())
            return bool(since) and time.monotonic() - since[0] >= delay

        return happened

    def wait(self, process: subprocess.Popen[Any], happened: Callable[[], bool]) -> bool:
        while not happened():
            if process.poll() is not None:
                return False
            time.sleep(0.002)
        return True

    def find(self, conductor: int, role: str) -> psutil.Process | None:
        """The process of a role; None when it has ended."""
        if role == "conductor":
            return psutil.Process(conductor)
        for process in psutil.Process(conductor).children(recursive=True):
            try:
                words = process.cmdline()
                rank = process.environ().get("RANK", "0")
            except psutil.Error:
                continue
            worker, torchrun = "--worker" in words, "torch.distributed.run" in words
            kind = "torchrun" if torchrun else f"rank {rank}" if worker else "stage"
            if kind == role:
                return process
        return None


def main() -> None:
    """Print the matrix of one launch kind."""
    parser = command_line.doc_parser("benchmarks.stage_faults", __doc__)
    parser.add_argument("--launch", choices=LAUNCHES, default="plain")
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), words.launch, words.seed, words.kills)
        bench.measure()
    print(f"| {words.launch}: killed | when | kills | steps again | seconds lost |\n|---|---|--:|--:|--:|")
    for (role, moment), cost in sorted(bench.costs.items()):
        print(f"| {role} | {moment} | {cost.kills} | {cost.steps_again} | {cost.seconds:.0f} |")
    print("weights and steps: " + ("; ".join(bench.problems) or "the same, bit for bit"))
    sys.exit(bool(bench.problems))


if __name__ == "__main__":
    main()
