"""One machine: a build with its teachers' servers, which are gone afterwards however it ends. vLLM is a stand-in here."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cot_builder import serve
from cot_builder.serving.__main__ import assign_gpus, override, plan
from pipeline.config.loader import load
from pipeline.errors import UserError
from pipeline.runs.phases import SERVED_AS
from pipeline.system import vllm_server
from tests.waiting import wait_for

FAKE_VLLM = '''
"""Takes the place of vLLM's server: answers what is asked of it in the prompt, and does what FAKE_VLLM says."""
import argparse, json, os, re, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int)
parser.add_argument("--model")
arguments, _ = parser.parse_known_args()
print(f"loading {arguments.model} on GPU {os.environ.get('CUDA_VISIBLE_DEVICES')}", flush=True)
orders = os.environ.get("FAKE_VLLM", "")
if orders == "die":
    sys.exit("ValueError: not enough memory for the KV cache")
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.answer({"data": [{"id": arguments.model}]} if self.path == "/v1/models" else {})
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        key = os.environ.get("VLLM_API_KEY")
        if key and self.headers["Authorization"] != f"Bearer {key}":
            return self.answer({"error": "Unauthorized"}, 401)
        if orders == "hang":
            print("asked", flush=True)
            time.sleep(3)
        label = re.search(r"answered: (\\w+)\\.", body)[1]
        text = f"<think>The light and the face in it speak of {label}.</think>\\n<answer>{label}</answer>"
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        self.answer({"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice],
                     "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}})
    def answer(self, value, status=200):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def log_message(self, *_):
        pass
ThreadingHTTPServer(("127.0.0.1", arguments.port), Handler).serve_forever()
'''


def free_block(count: int) -> int:
    """The first of so many free ports in a row, below those that the machine itself gives away in the meantime."""
    while True:
        first = random.randrange(20_000, 32_000)
        with contextlib.ExitStack() as bound, contextlib.suppress(OSError):
            for port in range(first, first + count):
                bound.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Bench:
    """A run of two served teachers, and the launcher with the stand-in for vLLM."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.root = folder, root
        package = folder / "fake" / "vllm" / "entrypoints" / "openai"
        package.mkdir(parents=True)
        for parent in (package, package.parent, package.parent.parent):
            (parent / "__init__.py").touch()
        (package / "api_server.py").write_text(FAKE_VLLM)
        first = free_block(2)
        self.ports = [first, first + 1]
        self.teachers: dict[str, dict[str, Any]] = {
            name: {
                "kind": "openai",
                "model": f"org/{name}",
                "base_urls": [f"http://localhost:{port}/v1"],
                "patience": 0.0,
            }
            for name, port in zip(("left", "right"), self.ports, strict=True)
        }
        self.cot = folder / "runs" / "two" / "cot"
        self.started: list[subprocess.Popen[str]] = []

    def config(self, **cot: Any) -> Path:
        for name, teacher in self.teachers.items():
            (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(teacher))
        block = {
            "split": "train[:12]",
            "teachers": [str(self.folder / f"{name}.yaml") for name in self.teachers],
            "prompt": "answer_given_v1",
            "concurrency": 4,
            "min_rows_per_class": 0,
            "filters": {"near_duplicate": None},
            **cot,
        }
        task = {"name": "scenes", "options": {"train": 24, "val": 1, "test": 1, "size": 32}}
        run = {"name": "two", "output_dir": str(self.folder / "runs"), "task": task, "cot": block}
        path = self.folder / "run.yaml"
        path.write_text(yaml.safe_dump(run))
        return path

    def environment(self, **more: str) -> dict[str, str]:
        paths = {"PYTHONPATH": str(self.folder / "fake"), "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
        return {**os.environ, **paths, **more}

    def start(self, *words: str, config: Path | None = None, **more: str) -> subprocess.Popen[str]:
        command = [self.root / "launch" / "build_with_servers.sh", "--config", config or self.config(), *words]
        process = subprocess.Popen(
            command, cwd="/", env=self.environment(**more), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.started.append(process)
        return process

    def build(self, *words: str, **more: Any) -> tuple[int, str]:
        process = self.start(*words, **more)
        told = process.communicate(timeout=120)[0]
        return process.returncode, told

    def logs(self) -> str:
        return "".join(log.read_text() for log in (self.cot.parent / "servers").glob("*.log"))


@pytest.fixture
def bench(tmp_path: Path, repo_root: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, repo_root)
    yield made
    for process in made.started:
        process.kill()
        process.wait()


def test_both_teachers_are_served_asked_and_stopped(bench: Bench) -> None:
    code, told = bench.build()
    assert code == 0, told
    assert "waiting for left on port" in told
    assert "right on port" in told
    manifest = json.loads((bench.cot / "manifest.json").read_text())
    assert manifest["status"] == "complete"
    assert set(manifest["per_teacher"]) == {"left", "right"}
    assert "loading org/left" in bench.logs()
    assert not any(listens(port) for port in bench.ports)


def test_servers_ask_for_the_key_that_their_build_sends(bench: Bench) -> None:
    """VLLM_API_KEY, which is set for servers elsewhere, guarded those of teachers that are sent none, or another."""
    bench.teachers["right"]["api_key_env"] = "RIGHT_KEY"
    code, told = bench.build(VLLM_API_KEY="for-others", RIGHT_KEY="its-own")
    assert code == 0, told
    assert set(json.loads((bench.cot / "manifest.json").read_text())["per_teacher"]) == {"left", "right"}


def test_the_build_s_exit_code_is_passed_on(bench: Bench) -> None:
    code, told = bench.build("cot.min_rows=500")
    assert code == 2, told
    assert not any(listens(port) for port in bench.ports)


def test_a_server_that_dies_shows_why_and_takes_the_others_along(bench: Bench) -> None:
    code, told = bench.build(FAKE_VLLM="die")
    assert code == 2
    assert "ended with exit code 1 before it answered" in told
    assert "not enough memory for the KV cache" in told
    assert not (bench.cot / "train.parquet").exists()
    wait_for(lambda: not any(listens(port) for port in bench.ports))


@pytest.mark.parametrize(("number", "codes"), [(signal.SIGTERM, {130, 143}), (signal.SIGINT, {130})])
def test_a_signal_stops_the_build_and_its_servers(bench: Bench, number: int, codes: set[int]) -> None:
    process = bench.start(FAKE_VLLM="hang")
    wait_for(lambda: "asked" in bench.logs())
    process.send_signal(number)
    told = process.communicate(timeout=60)[0]
    assert process.returncode in codes, told
    assert "Traceback" not in told
    assert not any(listens(port) for port in bench.ports)


def test_a_signal_while_servers_load_stops_them(bench: Bench) -> None:
    process = bench.start(FAKE_VLLM="hang")
    wait_for(lambda: "loading" in bench.logs())
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) in {130, 143}
    wait_for(lambda: not any(listens(port) for port in bench.ports))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_no_server_outlives_a_kill_9(bench: Bench) -> None:
    process = bench.start(FAKE_VLLM="hang")
    wait_for(lambda: "asked" in bench.logs())
    process.kill()
    process.wait()
    wait_for(lambda: not any(listens(port) for port in bench.ports))


def test_ports_can_be_numbered_from_anywhere_and_the_build_asks_there(bench: Bench) -> None:
    base = free_block(2)
    # as when another job on this node has the ports of the teachers' files
    with socket.socket() as taken:
        taken.bind(("", bench.ports[0]))
        taken.listen()
        code, told = bench.build("--base-port", str(base))
    assert code == 0, told
    assert f"left on port {base} " in told
    assert f"right on port {base + 1} " in told


def test_shards_with_servers_on_ports_of_their_own_merge_into_one_build(bench: Bench) -> None:
    for shard in ("0/2", "1/2"):
        code, told = bench.build("--base-port", str(free_block(2)), "--shard", shard)
        assert code == 0, told
    merge = [sys.executable, "-m", "cot_builder", "merge", "--config", bench.folder / "run.yaml", "--shards", "2"]
    done = subprocess.run(merge, cwd=bench.root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((bench.cot / "manifest.json").read_text())["status"] == "complete"


def test_a_taken_port_is_told_before_anything_starts(bench: Bench) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", bench.ports[1]))
        taken.listen()
        code, told = bench.build()
    assert code == 2
    assert f"port {bench.ports[1]} is taken" in told
    assert "loading" not in bench.logs()


def test_a_run_without_served_teachers_just_builds(bench: Bench) -> None:
    code, told = bench.build("cot.teachers=[attribute]")
    assert code == 0, told
    assert "no server to wait for" in told


def test_dry_run_starts_nothing(bench: Bench) -> None:
    code, told = bench.build("--dry-run")
    assert code == 0, told
    assert f"left on port {bench.ports[0]}" in told
    assert not bench.cot.exists() or not list(bench.cot.iterdir())
    assert bench.logs() == ""


def test_two_teachers_on_one_port_are_refused(bench: Bench) -> None:
    bench.teachers["right"]["base_urls"] = bench.teachers["left"]["base_urls"]
    with pytest.raises(UserError, match="left and right: two servers are to listen on port"):
        plan(load(bench.config()))


def test_an_address_of_this_machine_without_a_port_is_refused(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """The server would listen on 8000, and the build ask at 80."""
    bench.teachers["left"]["base_urls"] = ["http://localhost/v1"]
    config = load(bench.config())
    with pytest.raises(UserError, match=r"names no port, so port 80 is asked; .* such as http://localhost:8000/v1"):
        plan(config)
    assert serve.main([str(bench.folder / "left.yaml"), "--dry-run"]) == 2
    assert "names no port" in caplog.text
    # Where the ports are numbered, the build is told of them.
    base = free_block(2)
    assert f"http://127.0.0.1:{base}/v1" in plan(config, base)[1][0]
    assert serve.main([str(bench.folder / "left.yaml"), "--dry-run", "--port", "7"]) == 0


def test_servers_elsewhere_are_not_started(bench: Bench) -> None:
    config = load(bench.config(), ["cot.endpoints.left=[http://node1:8000/v1]"])
    assert [server.teacher for server in plan(config)[0]] == ["right"]


def test_a_model_that_was_not_trained_yet_is_told(bench: Bench) -> None:
    bench.teachers["left"]["model"] = "runs/nowhere/stage1_sft/final"
    with pytest.raises(UserError, match="the folder runs/nowhere/stage1_sft/final does not exist"):
        plan(load(bench.config()))


def test_every_server_gets_gpus_of_its_own() -> None:
    eight = [str(number) for number in range(8)]
    wanted = [("a", {"tensor-parallel-size": 2, "data-parallel-size": 3}), ("b", {}), ("c", {})]
    assert assign_gpus(wanted, eight) == [("0", "1", "2", "3", "4", "5"), ("6",), ("7",)]
    assert assign_gpus(wanted, []) == [(), (), ()]


def test_small_servers_share_a_gpu_and_large_ones_are_refused() -> None:
    half = {"gpu-memory-utilization": 0.45}
    assert assign_gpus([("a", half), ("b", half)], ["7"]) == [("7",), ("7",)]
    with pytest.raises(UserError, match="do not fit on the 1 GPUs"):
        assign_gpus([("a", {}), ("b", {})], ["7"])


def test_idle_gpus_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assign_gpus([("a", {})], ["0", "1", "2"])
    assert "2 of 3 GPUs stay idle; data-parallel-size" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["qwen", "qwen2.5"])
def test_the_printed_override_is_one_the_builder_reads(bench: Bench, name: str) -> None:
    urls = ["http://node1:8000/v1", "http://node2:8000/v1"]
    config = load(bench.config(), [override(name, urls)])
    assert config.cot is not None
    assert config.cot.endpoints == {name: urls}


def test_serve_names_the_port_and_who_holds_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.config()
    process = subprocess.Popen(
        [sys.executable, "-m", "cot_builder.serve", bench.folder / "left.yaml"], cwd=bench.root, env=bench.environment()
    )
    try:
        wait_for(lambda: listens(bench.ports[0]))
        monkeypatch.syspath_prepend(str(bench.folder / "fake"))
        assert serve.main([str(bench.folder / "left.yaml")]) == 2
    finally:
        process.kill()
        process.wait()
    told = capsys.readouterr().err
    assert f"port {bench.ports[0]} is taken by a server of org/left" in told
    assert "--port N" in told


def test_serve_without_vllm_says_how_to_get_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.config()
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None)
    assert serve.main([str(bench.folder / "left.yaml")]) == 2
    assert "./launch/install.sh --vllm installs it" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["serve", "qwen2_5_vl_7b"], ["serving", "build", "--config", "demo"]])
def test_a_bare_python_names_the_environment(repo_root: Path, words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-m", f"cot_builder.{words[0]}", *words[1:]],
        cwd=repo_root, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.returncode == 2
    assert "has no module" in done.stderr
    assert "./launch/install.sh --vllm" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ([], "serve org/left"),
        (["--headless", "--data-parallel-start-rank", "8"], "--headless --data-parallel-start-rank 8"),
    ],
)
def test_data_parallel_is_vllm_s_own(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], shown: str
) -> None:
    monkeypatch.setattr("pipeline.system.hardware.visible_gpus", lambda: 8)
    bench.teachers["left"]["serve"] = {"data-parallel-size": 8}
    bench.config()
    assert serve.main([str(bench.folder / "left.yaml"), "--port", "7", "--dry-run", *words]) == 0
    told = capsys.readouterr().out
    assert "-m vllm.entrypoints.cli.main serve org/left" in told
    assert "--data-parallel-size 8" in told
    assert "--port 7" in told
    assert shown in told


def test_flags_that_change_replies_are_not_taken_beside_the_file(
    bench: Bench, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """The journal would take replies of the quantized model for those of the file's."""
    bench.config()
    words = [
        "--revision",
        "v2",
        "-q",
        "fp8",
        "--mm_processor_kwargs.max_pixels=9",
        "--hf-overrides={}",
        "--max-model-len",
        "512",
    ]
    assert serve.main([str(bench.folder / "left.yaml"), "--dry-run", *words]) == 2
    assert [flag for flag in SERVED_AS if f"--{flag}: changes what the teacher replies" in caplog.text] == [
        "hf-overrides",
        "mm-processor-kwargs",
        "quantization",
    ]
    assert "--revision: is other weights; write it to revision: of the teacher's file" in caplog.text
    assert serve.main([str(bench.folder / "left.yaml"), "--dry-run", *words[-2:]]) == 0
    assert "--max-model-len 512" in capsys.readouterr().out


def test_a_flag_that_vllm_does_not_have_is_told_before_a_model_is_loaded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(vllm_server, "known_flags", lambda: frozenset({"max-model-len", "async-scheduling"}))
    bench.teachers["right"]["serve"] = {"max-modellen": 512, "no-async-scheduling": True}
    config = load(bench.config())
    told = "teacher right: serve.max-modellen: is no flag of the installed vLLM; did you mean max-model-len?"
    with pytest.raises(UserError, match=re.escape(told)) as caught:
        plan(config)
    assert len(caught.value.problems) == 1
    assert serve.main([str(bench.folder / "right.yaml"), "--dry-run"]) == 2
    assert "serve.max-modellen: is no flag of the installed vLLM" in caplog.text
    # A server elsewhere may be of another vLLM.
    plan(load(bench.config(), ["cot.endpoints.right=[http://node1:8000/v1]"]))


@pytest.mark.parametrize(
    ("flag", "value"),
    [("gpu-memory-utilization", "90%"), ("tensor-parallel-size", "two"), ("data-parallel-size", None)],
)
def test_what_gpus_are_counted_by_is_a_number(bench: Bench, flag: str, value: object) -> None:
    bench.teachers["right"]["serve"] = {flag: value}
    with pytest.raises(UserError, match=f"serve.{flag}: {value!r} must be a"):
        plan(load(bench.config()))


def test_a_teacher_that_is_a_composed_student_is_computed_by_transformers(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "config.json").write_text('{"model_type": "llava"}')
    bench.teachers["left"] |= {"model": str(tmp_path / "final")}
    bench.config()
    command = [str(bench.folder / "left.yaml"), "--dry-run"]
    assert serve.main(command) == 0
    assert "--model-impl transformers" in capsys.readouterr().out
    bench.teachers["left"]["serve"] = {"model-impl": "vllm"}
    bench.config()
    assert serve.main(command) == 0
    assert "--model-impl vllm" in capsys.readouterr().out


def test_the_data_parallel_flags_of_the_guide_are_vllm_s(repo_root: Path) -> None:
    spec = serve.importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("vllm is not installed")
    root = Path(spec.submodule_search_locations[0])
    known = (root / "engine" / "arg_utils.py").read_text() + (
        root / "entrypoints" / "launchers" / "cli_args.py"
    ).read_text()
    guide = (repo_root / "docs" / "multi_node.md").read_text()
    flags = {word.strip("`,;.") for word in guide.split() if word.strip("`").startswith("--data-parallel")}
    assert len(flags) >= 4
    assert {flag for flag in flags if f'"{flag}"' not in known} == set()
