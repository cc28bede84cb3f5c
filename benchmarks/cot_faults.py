"""The fault matrix of the CoT builder: how often each fault was injected, the rows it lost and the requests it repeated.

    python -m benchmarks.cot_faults [--scale 1.0] [--only NAME] [--seed 0]

Every scenario builds the same rows while something fails, again and again until the build is complete, and compares
``train.parquet`` byte for byte with an undisturbed build. Replies come from a local server (tests/fault_server.py) whose
answers follow from the request alone. tests/integration/test_cot_builder_faults.py runs the same scenarios.

Columns: `times` the fault struck; `rows lost` kept rows of the undisturbed build that are missing; `asked again` requests sent
although their reply was on record; `in flight` requests whose reply had not been recorded when a process died, the only ones
that must be repeated (a kill -9 can cost at most as many as were under way).
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline import command_line

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fault_server import Fault, FaultServer, fault_plan  # noqa: E402

ROWS, CONCURRENCY, LATENCY = 120, 8, 0.02
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["cot_builder.build.run", "cot_builder.output.write", "cot_builder.teachers.openai"])


@dataclass
class Result:
    """What a scenario did."""

    times: int = 0
    rows_lost: int = 0
    asked_again: int = 0
    in_flight: int = 0
    same_bytes: bool = False
    said: str = ""
    """The last thing the builder said about it."""


class FaultBench:
    """Builds of the same rows, each in a folder of its own."""

    def __init__(self, folder: Path, seed: int, scale: float) -> None:
        self.folder, self.scale = folder, scale
        self.random = random.Random(seed)
        self.undisturbed = folder / "undisturbed"
        with contextlib.closing(_Server()) as server:
            assert build(self.configure("undisturbed", [server.url])) == 0
        self.bytes = (self.undisturbed / "cot" / "train.parquet").read_bytes()

    def times(self, count: int) -> int:
        """How often a fault is to strike, at this scale."""
        return max(1, round(count * self.scale))

    def configure(self, name: str, urls: list[str], **teacher: Any) -> Path:
        """Write the files of a build; gives its configuration's path."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / name).mkdir()
        file = self.folder / name / "stub.yaml"
        quick = {"kind": "openai", "model": "stub", "timeout": 2.0, "patience": 60.0, "image_size": 16, "retries": 20}
        file.write_text(yaml.safe_dump({**quick, "base_urls": urls, **teacher}))
        cot = {
            "split": f"train[:{ROWS}]", "teachers": [str(file)], "prompt": "answer_given_v1", "attempts": 2,
            "concurrency": CONCURRENCY, "filters": {"near_duplicate": None},
        }  # fmt: skip
        task = {"name": "scenes", "options": {"train": 200, "val": 1, "test": 1, "size": 32}}
        config = self.folder / name / "run.yaml"
        config.write_text(yaml.safe_dump({"name": name, "output_dir": str(self.folder), "task": task, "cot": cot}))
        return config

    def judge(self, config: Path, result: Result) -> Result:
        """Compare a finished build with the undisturbed one."""
        import pyarrow.parquet as pq

        made = config.parent / "cot" / "train.parquet"
        wanted = set(pq.read_table(self.undisturbed / "cot" / "train.parquet", columns=["id"])["id"].to_pylist())
        have = set(pq.read_table(made, columns=["id"])["id"].to_pylist()) if made.exists() else set()
        result.rows_lost += len(wanted - have)
        result.same_bytes = made.exists() and made.read_bytes() == self.bytes
        return result


class _Server(FaultServer):
    """A fault server that is a little slow, so that there is time to disturb it."""

    def __init__(self, fault: Callable[[int, int], Fault] = lambda n, seed: None, port: int = 0) -> None:
        super().__init__(fault, port, latency=LATENCY)

    def close(self) -> None:
        self.stop()

    def seeds(self, since: int = 0) -> list[int]:
        """The sampling seeds asked for, which name the requests."""
        return [request["seed"] for request in self.requests[since:]]


def build(config: Path) -> int:
    """Build in this process; gives the exit code."""
    from cot_builder.__main__ import main

    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        return main(["build", "--config", str(config)])


def _child(config: str, log: str, file_limit: int | None) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))
    sys.stdout = sys.stderr = open(log, "a")  # noqa: SIM115 - until the process ends
    from cot_builder.__main__ import main

    code = main(["build", "--config", config])
    sys.stderr.flush()
    os._exit(code)


class _Build:
    """A build in a process of its own."""

    def __init__(self, config: Path, file_limit: int | None = None) -> None:
        self.log = config.parent / "log"
        self.log.write_text("")
        self.process = _PROCESSES.Process(target=_child, args=(str(config), str(self.log), file_limit))
        self.process.start()

    def send(self, number: signal.Signals) -> None:
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, number)

    def wait(self) -> int | None:
        self.process.join(120)
        return self.process.exitcode


def on_record(config: Path) -> set[int]:
    """Seeds of the requests whose replies are in the journal."""
    path = config.parent / "cot" / "journal" / "replies.sqlite"
    if not path.exists():
        return set()
    with contextlib.closing(sqlite3.connect(path)) as journal:
        try:
            rows = journal.execute("SELECT request FROM replies").fetchall()
        except sqlite3.DatabaseError:
            # Killed before the table was made.
            return set()
    return {json.loads(request)["sampling"]["seed"] for (request,) in rows}


def _until_complete(bench: FaultBench, name: str, times: int, disturb: Callable[[_Build, _Server], int]) -> Result:
    """Build while `disturb` (which gives how often it struck) interferes, and go on until complete; repeat until `times`."""
    result = Result()
    while result.times < times:
        with contextlib.closing(_Server()) as server:
            config = bench.configure(name, [server.url])
            code: int | None = -1
            while code != 0:
                before, asked = on_record(config), server.count
                running = _Build(config)
                if result.times < times:
                    result.times += disturb(running, server)
                code = running.wait()
                result.said = running.log.read_text().strip().splitlines()[-1] if running.log.stat().st_size else ""
                result.asked_again += len(before & set(server.seeds(asked)))
            result.in_flight += server.answered.total() - len(server.answered)
            bench.judge(config, result)
            if not result.same_bytes:
                return result
    return result


def kill_builder(bench: FaultBench) -> Result:
    """kill -9 of the builder at random moments."""

    def strike(running: _Build, server: _Server) -> int:
        time.sleep(bench.random.uniform(0.05, 0.6))
        alive = running.process.is_alive()
        running.send(signal.SIGKILL)
        return int(alive)

    return _until_complete(bench, "kill", bench.times(50), strike)


def stop_builder(bench: FaultBench) -> Result:
    """Ctrl-C and SIGTERM at random moments: what is in flight is waited for and recorded."""

    def strike(running: _Build, server: _Server) -> int:
        asked = server.count
        # Signals before the build began just end it.
        while server.count == asked and running.process.is_alive():
            time.sleep(0.002)
        time.sleep(bench.random.uniform(0.0, 0.3))
        alive = running.process.is_alive()
        running.send(bench.random.choice([signal.SIGINT, signal.SIGTERM]))
        return int(alive)

    return _until_complete(bench, "stop", bench.times(10), strike)


def torn_journal(bench: FaultBench) -> Result:
    """kill -9, and the journal's log cut off at a random byte, as a power cut leaves it: what was cut off is asked again."""

    def strike(running: _Build, server: _Server) -> int:
        time.sleep(bench.random.uniform(0.2, 0.5))
        alive = running.process.is_alive()
        running.send(signal.SIGKILL)
        running.wait()
        log = Path(running.log.parent / "cot" / "journal" / "replies.sqlite-wal")
        if alive and log.exists() and log.stat().st_size:
            os.truncate(log, bench.random.randrange(log.stat().st_size))
            return 1
        return 0

    return _until_complete(bench, "torn", bench.times(10), strike)


def full_disk(bench: FaultBench) -> Result:
    """No file may grow beyond a limit that rises from build to build, so that journal and output fill up in turn."""
    result, limit = Result(), 20_000
    with contextlib.closing(_Server()) as server:
        config, code = bench.configure("disk", [server.url]), -1
        while code != 0:
            before, asked = on_record(config), server.count
            running = _Build(config, file_limit=limit)
            code = running.wait() or 0
            said = running.log.read_text()
            result.times += code != 0
            result.said = said.strip().splitlines()[-1] if code else result.said
            result.asked_again += len(before & set(server.seeds(asked)))
            limit = int(limit * (1 + 1 / bench.times(4)))
        result.in_flight = server.answered.total() - len(server.answered)
        return bench.judge(config, result)


def killed_server(bench: FaultBench) -> Result:
    """The server is killed in the middle and another one comes up at the same address half a second later."""
    result = Result()
    for _ in range(bench.times(10)):
        first = _Server()
        config = bench.configure("server", [first.url], patience=30.0)
        running = _Build(config)
        while first.count < bench.random.randrange(5, ROWS) and running.process.is_alive():
            time.sleep(0.005)
        first.stop()
        result.times += 1
        time.sleep(0.5)
        with contextlib.closing(_Server(port=first.port)) as second:
            running.wait()
            again = set(first.answered) & set(second.seeds())
            result.in_flight += len(again)
            result.asked_again += len([seed for seed in second.answered if second.answered[seed] > 1])
            if not bench.judge(config, result).same_bytes:
                return result
    return result


def late_endpoint(bench: FaultBench) -> Result:
    """One of two endpoints is not there at first and comes up later; the other one is twenty times slower."""
    result = Result()
    for _ in range(bench.times(4)):
        late = _Server()
        late.stop()
        with contextlib.closing(_Server(lambda n, seed: 0.4)) as slow:
            config = bench.configure("late", [slow.url, late.url])
            running = _Build(config)
            time.sleep(bench.random.uniform(0.3, 1.5))
            with contextlib.closing(_Server(port=late.port)) as back:
                running.wait()
                result.times += 1
                both = set(slow.answered) & set(back.answered)
                result.in_flight += len(both)
                result.asked_again += sum(count > 1 for end in (slow, back) for count in end.answered.values())
                if not back.count:
                    result.said = "the endpoint that came back was not used"
                if not bench.judge(config, result).same_bytes:
                    return result
    return result


def transport(fault: str, share: float = 0.15) -> Callable[[FaultBench], Result]:
    """A fault that strikes a share of all requests."""

    def run(bench: FaultBench) -> Result:
        result, wanted = Result(), bench.times(40)
        while result.times < wanted:
            plan = fault_plan(f"{fault}={share}", bench.random.randrange(2**31))
            struck = [0]

            def strike(number: int, seed: int, plan: Any = plan, struck: list[int] = struck) -> Fault:
                found = plan(number, seed)
                struck[0] += found is not None
                return found

            with contextlib.closing(_Server(strike)) as server:
                config = bench.configure("transport", [server.url], timeout=0.5 if fault == "hang" else 5.0)
                code = build(config)
                result.times += struck[0]
                result.asked_again += server.answered.total() - len(server.answered)
                result.said = f"exit code {code}"
                if not bench.judge(config, result).same_bytes:
                    return result
        return result

    return run


SCENARIOS: dict[str, tuple[str, Callable[[FaultBench], Result]]] = {
    "kill_builder": ("`kill -9` of the builder", kill_builder),
    "stop_builder": ("Ctrl-C or SIGTERM", stop_builder),
    "torn_journal": ("`kill -9` and a torn journal tail", torn_journal),
    "full_disk": ("disk full (journal, then output)", full_disk),
    "killed_server": ("server killed, another one comes up", killed_server),
    "late_endpoint": ("endpoint absent at first beside a slow one", late_endpoint),
    "http_429": ("HTTP 429", transport("429")),
    "http_500": ("HTTP 500", transport("500")),
    "http_503": ("HTTP 503 with Retry-After", transport("503:0.1")),
    "reset": ("connection reset", transport("reset")),
    "truncate": ("reply cut off", transport("truncate")),
    "garbage": ("reply is not JSON", transport("garbage")),
    "shape": ("reply is not a completion", transport("shape")),
    "hang": ("no reply (timeout)", transport("hang", 0.05)),
}


@contextlib.contextmanager
def bench(seed: int = 0, scale: float = 1.0) -> Iterator[FaultBench]:
    """A bench in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="cot-faults-") as folder:
        yield FaultBench(Path(folder), seed, scale)


def main() -> None:
    parser = command_line.doc_parser("benchmarks.cot_faults", __doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies how often each fault strikes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=SCENARIOS, action="append")
    words = parser.parse_args()
    print("| fault | times | rows lost | asked again | in flight | same bytes |\n|---|--:|--:|--:|--:|---|")
    with bench(words.seed, words.scale) as made:
        for name in words.only or SCENARIOS:
            title, run = SCENARIOS[name]
            found = run(made)
            same = "yes" if found.same_bytes else f"NO: {found.said}"
            counts = f"{found.times} | {found.rows_lost} | {found.asked_again} | {found.in_flight}"
            print(f"| {title} | {counts} | {same} |", flush=True)


if __name__ == "__main__":
    main()
