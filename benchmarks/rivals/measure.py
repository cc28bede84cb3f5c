"""Run one contestant's command and measure it from outside: the server's clock, the kernel's CPU accounts."""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rivals.bed import Bed
from benchmarks.rivals.clock import most_at_once, read

_TICKS = os.sysconf("SC_CLK_TCK")
_SAMPLE_SECONDS = 0.2


@dataclass(frozen=True)
class Run:
    """One run of a contestant. `asking` is from its first request to its last reply, as the server saw them."""

    requests: int
    failed: int
    asking_seconds: float
    command_seconds: float
    in_flight: int
    """The most requests that were in flight at one time."""
    asking_cpu_seconds: float
    """CPU of the command and its children while it asked, without its start and end."""
    command_cpu_seconds: float
    tokens_per_reply: float
    prompt_tokens: float
    """Per request; the same for all who send the same text and picture."""
    reused_pictures: int
    """Pictures the server had in its cache: 0 unless rows were asked twice."""

    @property
    def rate(self) -> float:
        """Requests per second while asking."""
        return self.requests / self.asking_seconds

    @property
    def cpu_ms(self) -> float:
        """Client CPU per request while asking, in ms."""
        return 1000 * self.asking_cpu_seconds / self.requests


class MeasurementFailed(Exception):
    """A contestant did not do what was asked; the message is the end of what it said."""


def run(
    bed: Bed,
    command: Sequence[str],
    requests: int,
    *,
    cwd: Path,
    environment: Mapping[str, str],
    log: Path,
    allowed: Sequence[int] = (0,),
    timeout: float = 900.0,
) -> Run:
    """Run a contestant's command and measure it.

    Args:
        bed: the server that is asked.
        command: its words.
        requests: how many must have been answered.
        cwd: where it runs.
        environment: added to ours.
        log: file for all it prints.
        allowed: exit codes that are no failure.
        timeout: seconds after which it is ended.

    Raises:
        Failed: on another exit code, or another number of answered requests.
    """
    before, seen = bed.counters(), len(read(bed.clock))
    started = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=cwd, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT
        )
        samples: list[tuple[float, float]] = [(started, 0.0)]
        ended = threading.Event()
        sampler = threading.Thread(target=_sample, args=(process.pid, samples, ended))
        sampler.start()
        killer = threading.Timer(timeout, process.kill)
        killer.start()
        _, status, usage = os.wait4(process.pid, 0)
        code = process.returncode = os.waitstatus_to_exitcode(status)
        ended.set()
        killer.cancel()
        sampler.join()
    seconds, cpu = time.monotonic() - started, usage.ru_utime + usage.ru_stime
    asked = read(bed.clock, seen)
    answered = [one for one in asked if one.status == 200]
    if code not in allowed or len(answered) != requests:
        told = log.read_text(errors="replace").strip()[-1500:]
        raise MeasurementFailed(f"exit code {code}, {len(answered)} of {requests} requests answered; it said: …{told}")
    samples.append((started + seconds, cpu))
    first, last = asked[0].came, max(one.went for one in asked)
    counts = {name: after - before[name] for name, after in bed.counters().items()}
    return Run(
        requests=requests,
        failed=len(asked) - len(answered),
        asking_seconds=last - first,
        command_seconds=seconds,
        in_flight=most_at_once(asked),
        asking_cpu_seconds=_at(last, samples) - _at(first, samples),
        command_cpu_seconds=cpu,
        tokens_per_reply=counts["generation_tokens"] / len(answered),
        prompt_tokens=counts["prompt_tokens"] / len(answered),
        reused_pictures=int(counts["mm_cache_hits"]),
    )


def _sample(root: int, samples: list[tuple[float, float]], ended: threading.Event) -> None:
    """Note the CPU seconds of a process and its children until `ended`; what was used never counts less than before."""
    while not ended.wait(_SAMPLE_SECONDS):
        samples.append((time.monotonic(), max(_cpu_of_tree(root), samples[-1][1])))


def _cpu_of_tree(root: int) -> float:
    """CPU seconds of a process, its children that live, and those it has waited for; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{root}/stat").read_text().rpartition(")")[2].split()
        children = [
            int(child) for file in Path(f"/proc/{root}/task").glob("*/children") for child in file.read_text().split()
        ]
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS + sum(map(_cpu_of_tree, children))


def _at(moment: float, samples: Sequence[tuple[float, float]]) -> float:
    """The CPU seconds used up to a moment, interpolated."""
    for (t0, c0), (t1, c1) in itertools.pairwise(samples):
        if t0 <= moment <= t1:
            return c0 + (c1 - c0) * (moment - t0) / max(t1 - t0, 1e-9)
    return samples[-1][1]
