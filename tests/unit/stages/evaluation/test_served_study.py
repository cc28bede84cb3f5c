"""A served model beside others in a study: asked blind and in several orders over HTTP, its figures by hand."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.evaluation import LabConfig, LabModel, LabTask, cells
from pipeline.config.schema import TaskConfig
from pipeline.sweeps.results import Cells, Planned, results
from stages.evaluation.cell import run_cell
from tests.unit.pipeline.tasks.test_benchmarks import cv_bench


def reply(model: str, content: Any) -> str:
    """What a model says: the large one sees the picture and finds "3" wherever it stands, the small one likes A."""
    sees = not isinstance(content, str)
    text = content if isinstance(content, str) else next(part["text"] for part in content if part["type"] == "text")
    if model == "small-1b":
        return "A" if sees else "I cannot see any picture."
    place = text.index(" 3") - 2 if sees else text.index(" 2") - 2
    return text[place : place + 1]


@pytest.fixture
def url() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            said = reply(body["model"], body["messages"][0]["content"])
            choice = {"message": {"content": said}, "finish_reason": "stop"}
            data = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/v1"
    http.shutdown()


def test_a_study_of_two_served_models_has_the_figures_that_their_habits_give(tmp_path: Path, url: str) -> None:
    cv_bench(tmp_path / "data")
    config = LabConfig(
        "study",
        str(tmp_path),
        models={name: LabModel(name, backend="openai", base_url=url) for name in ("small-1b", "large-7b")},
        tasks={"cv": LabTask(TaskConfig("cv_bench", str(tmp_path / "data")), "test")},
        precisions=["auto"],
        modes=["direct", "blind"],
        rotate_options=2,
    )
    for cell in cells(config):
        run_cell(config, cell)
    sizes = {"small-1b": 10**9, "large-7b": 7 * 10**9}
    told = results(Cells(config, {cell.id: Planned(parameters=sizes[cell.model]) for cell in cells(config)}))
    accuracy = {(row.model, row.mode): (row.correct, row.n) for row in told.cells}
    # Eight questions in two orders; their gold answer is "3", which stands at A and then, of five options, at E.
    assert accuracy == {
        ("small-1b", "direct"): (8, 16),
        ("small-1b", "blind"): (0, 16),
        ("large-7b", "direct"): (16, 16),
        ("large-7b", "blind"): (0, 16),
    }
    turned = {line.model: line for line in told.rotations if line.mode == "direct"}
    assert (turned["small-1b"].consistent.value, turned["small-1b"].all_right.value) == (0, 0)
    assert (turned["large-7b"].consistent.value, turned["large-7b"].all_right.value) == (1, 1)
    seen = {line.model: line for line in told.seeing if not line.group}
    assert (seen["small-1b"].difference, seen["small-1b"].unparsable) == (0.5, 16)
    assert (seen["large-7b"].difference, seen["large-7b"].unparsable) == (1, 0)
    # Every question that only one gets right is one coin, in however many orders: eight of them.
    assert seen["large-7b"].p == round(2 / 2**8, 6)
    drop = {line.model: line.drop for line in told.scaling}
    assert (drop["small-1b"].value, drop["large-7b"].value) == (0.5, 0)
    assert dataclasses.asdict(told)["counts"] == {"complete": 4}
