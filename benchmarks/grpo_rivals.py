"""What a GRPO step costs in our stage, in bare TRL and in ms-swift: same model, same rows, same options, steps in turns.

    python -m benchmarks.grpo_rivals [--points 4,120,32 8,350,32] [--model 47M] [--steps 8] [--json FILE]

A random Qwen2.5-VL in float32 on one thread; one group of G completions of exactly C tokens a step, one optimizer step per
rollout, no KL term, transformers' generation. Each trainer is a process of its own, with its own packages; all are started,
then take their steps one by one in turns, so that other load on the machine falls on all. Hooks inside the models count what
a step computed. ms-swift is installed in an environment of its own under --cache (CPU packages only). What could not be made
equal stands under the table.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cot_throughput import hardware
from benchmarks.rivals.contestants import our_version
from benchmarks.rivals.environments import environment, version
from benchmarks.rivals.grpo_bed import SIZES, Job, Point, prepare
from benchmarks.rivals.grpo_probe import KINDS, REPORTS
from pipeline import command_line
from pipeline.files import ROOT

NOTES = """\
- "÷ TRL" is the median over turns of this trainer's step divided by TRL's in the same turn; ranges in brackets.
- CPU seconds are the process's own, on one thread: where they are far below the seconds, the machine was doing other things, and
  their ratio is the one to read.
- Positions are rows times length in the language model: generation with its cache, scoring without a gradient, training.
- ms-swift scores the completions once more before every optimizer step, also where the step is the rollout's only one and the
  ratio is 1; it has no option against it. TRL leaves that pass out then.
- ms-swift encodes the picture and prompt of every completion by itself, once to generate and once to train. That is its way of
  working, and in its time.
- Its packages are its own: torch {swift_torch}, transformers {swift_transformers}, trl {swift_trl}; the others' are torch
  {torch}, transformers {transformers}, trl {trl}.
- Its GRPO lacks msgspec among its requirements, and knows Qwen's image token by its number alone: rivals/swift_grpo.py gives it
  this model's. Nothing else of it is changed; all read the same prompt tokens, which is checked.
- The vocabulary of the random model is small: log-probabilities over a real one cost every trainer more.
- Peak memory is the process's, packages included (in parentheses: before its first step). Gradient checkpointing is off."""
"""What a reader of the table must know."""
CONTESTANTS = ("stage", "trl", "swift")
WARM_UP = 2
"""First steps of each that do not count."""
_SECONDS = 600
"""The longest a start or a step may take."""
_OFFLINE = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
}


class Failed(Exception):
    """A contestant ended or did not answer; the message is the end of what it said."""


@dataclass
class Line:
    """One line of the table: a contestant at a point."""

    contestant: str
    name: str
    version: str
    point: Point
    start_mb: float = 0.0
    """Resident memory at its highest before the first step: packages and model."""
    steps: list[dict[str, Any]] = field(default_factory=list)
    """Reports of the probe, without the warm-up."""


class Contestant:
    """A trainer in its own process that takes a step when asked."""

    def __init__(self, line: Line, job: Job, binaries: Path | None) -> None:
        self.line = line
        folder = job.folder / line.contestant
        folder.mkdir()
        self.log = folder / "log.txt"
        here, there = os.pipe()
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                command(line.contestant, job, folder, binaries),
                cwd=folder if binaries else ROOT,
                env={**os.environ, **surroundings(line.contestant, folder), REPORTS: str(there)},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(there,),
            )
        os.close(there)
        self.reports = os.fdopen(here)

    def answer(self) -> dict[str, Any]:
        """The next report.

        Raises:
            Failed: when it ends instead, or takes too long and is ended.
        """
        killer = threading.Timer(_SECONDS, self.process.kill)
        killer.start()
        said = self.reports.readline()
        killer.cancel()
        if not said:
            raise Failed(f"{self.line.name}: {self.log.read_text(errors='replace').strip()[-2000:]}")
        report: dict[str, Any] = json.loads(said)
        return report

    def step(self) -> dict[str, Any]:
        """One optimizer step, with the rollout it needs."""
        assert self.process.stdin is not None
        # It has ended; `answer` says so.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(b"\n")
            self.process.stdin.flush()
        return self.answer()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.reports.close()


def command(contestant: str, job: Job, folder: Path, binaries: Path | None) -> list[str]:
    """How a contestant is started."""
    if contestant == "swift":
        assert binaries is not None
        script = ROOT / "benchmarks" / "rivals" / "swift_grpo.py"
        return [str(binaries / "python"), str(script), str(job.file), str(folder)]
    return [sys.executable, "-m", "benchmarks.rivals.our_grpo", contestant, str(job.file), str(folder)]


def surroundings(contestant: str, folder: Path) -> dict[str, str]:
    """Environment variables of a contestant; a rival sees nothing of this project and keeps its caches to itself."""
    if contestant != "swift":
        return {**_OFFLINE, "PYTHONPATH": str(ROOT)}
    caches = {"MODELSCOPE_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "hf")}
    return {**_OFFLINE, **caches, "PYTHONPATH": ""}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON; gives an exit code."""
    parser = command_line.doc_parser("benchmarks.grpo_rivals", __doc__)
    parser.add_argument("--points", nargs="+", type=_point, metavar="G,P,C", default=[Point(4, 120, 32)])
    parser.add_argument("--model", choices=SIZES, default="47M")
    parser.add_argument("--steps", type=int, default=8, help=f"steps of each that count, after {WARM_UP} (default 8)")
    parser.add_argument("--json", type=Path, help="write every step to this file")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/clgrpo-benchmarks"), help="ms-swift's environment")
    arguments = parser.parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    binaries = environment(arguments.cache.expanduser(), "ms-swift-grpo")
    lines: list[Line] = []
    for point in dict.fromkeys(arguments.points):
        with tempfile.TemporaryDirectory(prefix="grpo-rivals-") as folder:
            lines += measure(prepare(Path(folder), point, arguments.model), arguments.steps, binaries)
    print(f"\n{hardware()}; Qwen2.5-VL, {arguments.model}, float32, 1 thread\n\n{table(lines)}\n\n{notes()}")
    if arguments.json:
        record = {"machine": hardware(), "model": arguments.model, "lines": [vars(line) for line in lines]}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def _point(text: str) -> Point:
    try:
        return Point.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def measure(job: Job, steps: int, binaries: Path) -> list[Line]:
    """Every contestant at one point.

    Raises:
        Failed: when one of them does not train, or they were not given the same prompt.
    """
    from importlib import metadata

    known = {
        "stage": ("CLGRPO", our_version()),
        "trl": ("TRL", metadata.version("trl")),
        "swift": ("ms-swift", version("ms-swift")),
    }
    running: list[Contestant] = []
    try:
        for name in CONTESTANTS:
            line = Line(name, *known[name], job.point)
            running.append(Contestant(line, job, binaries if name == "swift" else None))
        for one in running:
            one.line.start_mb = one.answer()["peak_mb"]
        for turn in range(WARM_UP + steps):
            for one in running[turn % len(running) :] + running[: turn % len(running)]:
                report = one.step()
                print(
                    f"{job.point.text()} {one.line.name}: {report['seconds']:.2f} s, {report['cpu_seconds']:.2f} of CPU",
                    file=sys.stderr,
                    flush=True,
                )
                if turn >= WARM_UP:
                    one.line.steps.append(report)
    finally:
        for one in running:
            one.end()
    lines = [one.line for one in running]
    if len(read := {line.steps[-1]["prompt"] for line in lines}) > 1:
        raise Failed(f"the contestants read different prompts: {read}")
    return lines


def notes() -> str:
    """`NOTES` with the versions of both sides."""
    from importlib import metadata

    names = ("torch", "transformers", "trl")
    ours = {name: metadata.version(name) for name in names}
    its = {f"swift_{name}": version(name, "ms-swift") for name in names}
    return NOTES.format(**ours, **its)


def ratios(line: Line, other: Line, clock: str) -> list[float]:
    """How many times as much of a clock each step of `line` took as the step of `other` in the same turn."""
    return [mine[clock] / its[clock] for mine, its in zip(line.steps, other.steps, strict=True)]


def spread(numbers: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(numbers):.2f} [{min(numbers):.2f}, {max(numbers):.2f}]"


def table(lines: Sequence[Line]) -> str:
    """The lines as a markdown table. Passes and positions are those of the last step."""
    names = ["G, P, C", "trainer", "s a step", "÷ TRL", "CPU s a step", "÷ TRL", "peak MB (at the start)"]
    names += [f"{name}: passes, positions" for name in KINDS] + ["vision: passes, patches"]
    out = ["| " + " | ".join(names) + " |", "|" + "---|" * 2 + "---:|" * (len(names) - 2)]
    for line in lines:
        (bare,) = (other for other in lines if other.contestant == "trl" and other.point == line.point)
        last = line.steps[-1]
        read = int(last["prompt"].partition("-")[0])
        cells = [f"{line.point.generations}, {read}, {line.point.completion}", f"{line.name} {line.version}"]
        for clock in ("seconds", "cpu_seconds"):
            cells += [spread([step[clock] for step in line.steps]), spread(ratios(line, bare, clock))]
        cells.append(f"{last['peak_mb']:.0f} ({line.start_mb:.0f})")
        cells += [f"{passes}, {held:,}" for passes, held in (last["work"][name] for name in (*KINDS, "vision"))]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failed:
        print(f"error: {failed}", file=sys.stderr)
        sys.exit(1)
