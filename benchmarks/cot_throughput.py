"""How fast the CoT builder asks a teacher, against vLLM's own load generator and two data generators, in one run.

    python -m benchmarks.cot_throughput [--rows 600] [--repeats 3] [--only ours,bench] [--quick] [--json FILE]

All ask the same vLLM server on this machine's CPU the same things: pictures, text, sampling and reply length, every run
other pictures. The clock is the server's: from a contestant's first request to its last reply. `bench` runs once at each
of several concurrencies; ours, at its defaults, and `bench` at its best then run in turns. The rivals are installed in
environments of their own under --cache (CPU packages only). benchmarks/README.md says how each is driven and what it does.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.rivals import contestants
from benchmarks.rivals.bed import Bed, prepare, served
from benchmarks.rivals.measure import MeasurementFailed, Run
from pipeline import command_line

CONTESTANTS = ("ours", "bench", "distilabel", "swift")
CONCURRENCIES = (16, 32, 64, 128, 256)
SWIFT_SHARE = 4
"""ms-swift's rows are this many times fewer: it asks one after the other."""


@dataclass
class ThroughputLine:
    """One line of the table: a contestant with one setting."""

    contestant: str
    version: str
    setting: str
    runs: list[Run] = field(default_factory=list)
    error: str | None = None

    def rate(self) -> float:
        """Median requests per second."""
        return statistics.median(run.rate for run in self.runs)


def main() -> int:
    """Measure, print the table, write the JSON; gives an exit code."""
    arguments = _arguments()
    only = arguments.only.split(",")
    if unknown := set(only) - set(CONTESTANTS):
        print(f"error: --only {','.join(unknown)}: there are {', '.join(CONTESTANTS)}", file=sys.stderr)
        return 2
    rows, repeats, concurrencies = arguments.rows, arguments.repeats, list(CONCURRENCIES)
    if arguments.quick:
        rows, repeats, concurrencies = 60, 1, [64]
    cache = arguments.cache.expanduser()
    binaries = contestants.install(cache, only)
    # An upper bound on what all runs together take, and the warm-up.
    total = rows * (len(concurrencies) + 6 * repeats + 1)
    with (
        tempfile.TemporaryDirectory(prefix="cot-throughput-") as folder,
        served(prepare(Path(folder), total, arguments.tokens)) as bed,
    ):
        lines = _measure(bed, only, rows, repeats, concurrencies, binaries)
    print(f"\n{machine()}; every reply {arguments.tokens} tokens\n\n{table(lines)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(_record(lines, rows, arguments.tokens), indent=1) + "\n")
    return 0 if all(line.error is None for line in lines) else 1


def _arguments() -> argparse.Namespace:
    parser = command_line.doc_parser("benchmarks.cot_throughput", __doc__)
    parser.add_argument("--rows", type=int, default=600, help="requests of one run (default 600)")
    parser.add_argument("--tokens", type=int, default=128, help="length of every reply (default 128)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each line (default 3)")
    parser.add_argument("--only", default=",".join(CONTESTANTS), help="contestants to run (default: all)")
    parser.add_argument("--quick", action="store_true", help="60 rows, one run, one concurrency: does it all work?")
    parser.add_argument("--json", type=Path, help="write every run to this file")
    parser.add_argument(
        "--cache", type=Path, default=Path("~/.cache/clgrpo-benchmarks"), help="the rivals' environments"
    )
    return parser.parse_args()


def _measure(
    bed: Bed, only: list[str], rows: int, repeats: int, concurrencies: list[int], binaries: dict[str, Path]
) -> list[ThroughputLine]:
    lines: list[ThroughputLine] = []

    def go(line: ThroughputLine, ask: Callable[..., Run], *words: Any) -> None:
        """One run of a line; a line that has failed is not run again."""
        if line.error is not None:
            return
        if line not in lines:
            lines.append(line)
        try:
            line.runs.append(ask(bed, *words))
            said = f"{line.runs[-1].rate:.2f} requests/s"
        except MeasurementFailed as failed:
            line.error = said = str(failed)
        print(f"{line.contestant} {line.setting}: {said}", file=sys.stderr, flush=True)

    # Warms the server and puts the text's prefix into its cache.
    contestants.bench(bed, min(rows, 64), 32)
    turns: list[tuple[ThroughputLine, Callable[..., Run], tuple[Any, ...]]] = []
    if "ours" in only:
        turns.append((ThroughputLine("CLGRPO", contestants.our_version(), "defaults"), contestants.ours, (rows,)))
    if "bench" in only:
        for number in concurrencies:
            line = ThroughputLine("vllm bench serve", contestants.vllm_version(), f"--max-concurrency {number}")
            go(line, contestants.bench, rows, number)
        if good := [(line.rate(), at) for line, at in zip(lines, concurrencies, strict=True) if line.runs]:
            at = max(good)[1]
            best = lines[concurrencies.index(at)]
            # It was the quickest of several once; what counts are its runs in turn with ours.
            best.runs.clear()
            turns.append((best, contestants.bench, (rows, at)))
    for turn in range(repeats):
        for line, ask, words in turns if turn % 2 == 0 else reversed(turns):
            go(line, ask, *words)
    for name in contestants.SETTINGS:
        if name not in only:
            continue
        share = rows // SWIFT_SHARE if name == "swift" else rows
        for setting, options in contestants.SETTINGS[name].items():
            line = ThroughputLine(*contestants.label(name), setting)
            for _ in range(repeats):
                go(line, contestants.rival, name, share, binaries[name], options)
    return lines


def table(lines: list[ThroughputLine]) -> str:
    """The lines as a markdown table: ours, then each contestant's from its quickest on."""
    order = list(dict.fromkeys(["CLGRPO", *(line.contestant for line in lines)]))
    lines = sorted(lines, key=lambda line: (order.index(line.contestant), -line.rate() if line.runs else 0))
    ours = next((line.rate() for line in lines if line.contestant == "CLGRPO" and line.runs), None)
    names = ["contestant", "version", "setting", "in flight", "requests", "seconds", "requests/s", "ours ÷ this"]
    names += ["client CPU ms/request", "command s", "tokens/reply"]
    out = ["| " + " | ".join(names) + " |", "|" + "---|" * 3 + "---:|" * (len(names) - 3)]
    for line in lines:
        cells = [line.contestant, line.version, line.setting]
        if line.runs:
            middle = sorted(line.runs, key=lambda run: run.rate)[len(line.runs) // 2]
            rates = [run.rate for run in line.runs]
            spread = f" [{min(rates):.1f}, {max(rates):.1f}]" if len(rates) > 1 else ""
            cells += [
                str(max(run.in_flight for run in line.runs)),
                str(middle.requests),
                f"{middle.asking_seconds:.1f}",
                f"{line.rate():.1f}{spread}",
                f"{ours / line.rate():.2f}" if ours else "",
                f"{statistics.median(run.cpu_ms for run in line.runs):.1f}",
                f"{statistics.median(run.command_seconds for run in line.runs):.1f}",
                f"{middle.tokens_per_reply:.0f}",
            ]
        if line.error:
            cells[2] += f": failed, {' '.join(line.error.split())[:300]}"
        out.append("| " + " | ".join([*cells, *[""] * (len(names) - len(cells))]) + " |")
    return "\n".join(out)


def machine() -> str:
    """This machine in one line, with the server's version."""
    return f"{hardware()} (server and client share the cores), vLLM {contestants.vllm_version()}"


def hardware() -> str:
    """Processor, cores, memory and Python in one line."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {cores} cores, {memory:.0f} GiB, Python {platform.python_version()}"


def _record(lines: list[ThroughputLine], rows: int, tokens: int) -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    packages = {name: metadata.version(name) for name in ("torch", "transformers", "openai")}
    return {
        "machine": machine(),
        "commit": commit,
        "packages": packages,
        "rows": rows,
        "tokens": tokens,
        "lines": [
            {
                **dataclasses.asdict(line),
                "rates": [run.rate for run in line.runs],
                "cpu_ms": [run.cpu_ms for run in line.runs],
            }
            for line in lines
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
