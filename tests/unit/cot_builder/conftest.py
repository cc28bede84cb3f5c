"""A stub of the chat API with faults on demand, and builds on a few small drawn pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fault_server import Fault, FaultServer
from scripted import TASK, use_drawn

from cot_builder.__main__ import main


class Stub(FaultServer):
    """A server of the chat API on a free port; a status comes with a short Retry-After."""

    def __init__(
        self, fault: Callable[[int, int], Fault] = lambda n, seed: None, port: int = 0, **options: Any
    ) -> None:
        super().__init__(fault, port, retry_after=0.1, **options)


@pytest.fixture
def serve() -> Iterator[Callable[..., Stub]]:
    """Start stub servers: ``serve(fault=…, port=…)``; all are stopped at the end."""
    stubs: list[Stub] = []

    def start(**options: Any) -> Stub:
        stubs.append(Stub(**options))
        return stubs[-1]

    yield start
    for stub in stubs:
        stub.stop()


class Project:
    """A run on 40 drawn pictures whose teacher file and configuration a test writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cot = folder / "runs" / "tiny" / "cot"
        self.config = folder / "run.yaml"
        (folder / "runs" / "tiny").mkdir(parents=True)
        use_drawn(folder / "runs")

    def configure(self, teachers: dict[str, dict[str, Any]], rows: int = 40, **cot: Any) -> Path:
        """Write the run's file and one teacher file per entry."""
        for name, teacher in teachers.items():
            (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(teacher))
        cot = {
            "split": f"train[:{rows}]",
            "prompt": "answer_given_v1",
            "concurrency": 4,
            "min_rows_per_class": 0,
            **cot,
        }
        cot["teachers"] = [str(self.folder / f"{name}.yaml") for name in teachers]
        run = {"name": "tiny", "output_dir": str(self.folder / "runs"), "task": TASK, "cot": cot}
        self.config.write_text(yaml.safe_dump(run))
        return self.config

    def ask(self, *stubs: Stub, rows: int = 40, teacher: dict[str, Any] | None = None, **cot: Any) -> Path:
        """Configure one teacher behind stubs, impatient enough for a test."""
        quick = {"kind": "openai", "model": "stub", "timeout": 5.0, "patience": 0.0, "image_size": 16}
        return self.configure({"stub": {**quick, "base_urls": [s.url for s in stubs], **(teacher or {})}}, rows, **cot)

    def build(self, *words: str) -> int:
        """Run `build` in this process; gives the exit code."""
        return main(["build", "--config", str(self.config), *words])

    def manifest(self) -> dict[str, Any]:
        return json.loads((self.cot / "manifest.json").read_text())

    def parquet(self) -> bytes:
        return (self.cot / "train.parquet").read_bytes()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """An unconfigured run in a folder of its own."""
    return Project(tmp_path)
